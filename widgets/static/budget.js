// Draws the grants of one analyst.

const HEADINGS = ["site", "table, purpose", "granted", "spent", "left", "until", "charges"];
const LOW = 0.2;
const MEANING = "left: the largest epsilon that one more question may cost. " +
  "It is seldom what was granted less what was spent: the site adds up exactly.";

function meter(grant) {
  const words = `${grant.left} of ${grant.granted} left`;
  const low = grant.share < LOW;
  const fill = make("div", { class: low ? "pn-fill pn-low" : "pn-fill" });
  const bar = make("div", {
    class: "pn-meter",
    role: "meter",
    "aria-label": `Epsilon left at ${grant.site} for ${grant.table}`,
    "aria-valuemin": "0",
    "aria-valuemax": grant.granted,
    "aria-valuenow": grant.left,
    "aria-valuetext": words,
  }, fill);
  const text = low ? `${words} · running low` : words;
  const cell = make("td", { "data-label": HEADINGS[4] },
    make("div", {}, bar, make("div", { class: "pn-words", text })));
  return { cell, fill };
}

function number(label, text) {
  return make("td", { class: "pn-number", "data-label": label }, make("span", { text }));
}

function history(grant, key) {
  if (grant.history.length === 0) return make("span", { class: "pn-quiet", text: "none yet" });
  const count = grant.history.length;
  const list = make("ol", { reversed: "" });
  for (const entry of grant.history) {
    const at = entry.at.replace("T", " ").slice(0, 16);
    list.append(make("li", { text: `${at} · epsilon ${entry.epsilon} · request ${entry.request}` }));
  }
  const summary = control("summary", { text: `${count} charge${count > 1 ? "s" : ""}` });
  return make("details", { "data-key": key }, summary, list);
}

function render({ model, el }) {
  const view = viewing(model);
  const key = (grant) => JSON.stringify([grant.site, grant.table, grant.purpose]);
  const shares = new Map();
  const body = make("tbody");
  const again = button("Ask the sites again");
  el.append(make("section", { class: "pn-card pn-budget", "aria-label": "Privacy budget" },
    make("table", { class: "pn-stack" }, make("caption", { text: "Privacy budget (epsilon)" }),
      headings(...HEADINGS), body),
    make("div", { class: "pn-small pn-foot", text: MEANING }),
    make("div", { class: "pn-foot" }, again, view.status)));

  const row = (grant) => {
    const { cell, fill } = meter(grant);
    // from the old width to the new one; style sheets decide whether that moves
    fill.style.width = `${100 * (shares.get(key(grant)) ?? grant.share)}%`;
    shares.set(key(grant), grant.share);
    requestAnimationFrame(() => { fill.style.width = `${100 * grant.share}%`; });
    return make("tr", {},
      make("th", { scope: "row", text: grant.site }),
      make("td", { "data-label": HEADINGS[1] }, make("div", { class: "pn-wrap" },
        make("div", { text: grant.table }),
        make("div", { class: "pn-small", text: grant.purpose }))),
      number(HEADINGS[2], grant.granted),
      number(HEADINGS[3], grant.spent),
      cell,
      make("td", { "data-label": HEADINGS[5] }, make("span", { text: grant.until })),
      make("td", { "data-label": HEADINGS[6] }, history(grant, key(grant))));
  };
  const drawBudgets = () => {
    redraw(body, () => body.replaceChildren(...model.get("budgets").map(row)));
    busy(again, false);
    view.say(model.get("budgets").length ? "" : "No site has granted a budget yet.");
  };
  const drawProblem = () => {
    busy(again, false);
    if (model.get("problem")) view.say(model.get("problem"), "problem");
  };

  view.onModel("change:budgets", drawBudgets);
  view.onModel("change:problem", drawProblem);
  view.onModel("msg:custom", () => { drawBudgets(); drawProblem(); });
  view.on(again, "click", () => {
    busy(again, true);
    view.ask({ ask: "refresh" }, "Asking…");
  });
  drawBudgets();
  drawProblem();
  return view.stop;
}

export default { render };
