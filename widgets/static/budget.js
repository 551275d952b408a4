// Draws the grants of one analyst. Everything shown came from a site, so it is only ever set as
// text, never as HTML.

const LOW = 0.2;
const MEANING = "left: the largest epsilon that one more question may cost. " +
  "It is seldom what was granted less what was spent: the site adds up exactly.";

/** Make an element with text, attributes and children. */
function make(name, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

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
  return { cell: make("td", {}, bar, make("div", { class: "pn-words", text })), fill };
}

function history(grant, open) {
  if (grant.history.length === 0) return make("span", { class: "pn-quiet", text: "none yet" });
  const count = grant.history.length;
  const list = make("ol", { reversed: "" });
  for (const entry of grant.history) {
    const at = entry.at.replace("T", " ").slice(0, 16);
    list.append(make("li", { text: `${at} · epsilon ${entry.epsilon} · request ${entry.request}` }));
  }
  const summary = make("summary", { text: `${count} release${count > 1 ? "s" : ""}` });
  const details = make("details", {}, summary, list);
  details.open = open;
  return details;
}

function render({ model, el }) {
  const key = (grant) => JSON.stringify([grant.site, grant.table, grant.purpose]);
  const shares = new Map();
  const body = make("tbody");
  const head = make("tr");
  for (const text of ["site", "table, purpose", "granted", "spent", "left", "until", "releases"]) {
    head.append(make("th", { scope: "col", text }));
  }
  const button = make("button", { type: "button", text: "Ask the sites again" });
  const status = make("div", { class: "pn-status", role: "status", "aria-live": "polite" });
  const card = make("section", { class: "pn-budget", "aria-label": "Privacy budget" },
    make("table", {}, make("caption", { text: "Privacy budget (epsilon)" }),
      make("thead", {}, head), body),
    make("div", { class: "pn-small pn-foot", text: MEANING }),
    make("div", { class: "pn-foot" }, button, status));
  el.append(card);

  const drawBudgets = () => {
    const open = new Set([...body.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    body.replaceChildren();
    for (const grant of model.get("budgets")) {
      const id = key(grant);
      const { cell, fill } = meter(grant);
      const past = history(grant, open.has(id));
      past.dataset.key = id;
      body.append(make("tr", {},
        make("th", { scope: "row", text: grant.site }),
        make("td", {}, make("div", { text: grant.table }),
          make("div", { class: "pn-small", text: grant.purpose })),
        make("td", { class: "pn-number", text: grant.granted }),
        make("td", { class: "pn-number", text: grant.spent }),
        cell,
        make("td", { text: grant.until }),
        make("td", {}, past)));
      // from the old width to the new one; style sheets decide whether that moves
      fill.style.width = `${100 * (shares.get(id) ?? grant.share)}%`;
      shares.set(id, grant.share);
      requestAnimationFrame(() => { fill.style.width = `${100 * grant.share}%`; });
    }
    button.disabled = false;
    status.textContent = model.get("budgets").length ? "" : "No site has granted a budget yet.";
  };
  const drawProblem = () => {
    button.disabled = false;
    if (model.get("problem")) status.textContent = model.get("problem");
  };
  const ask = () => {
    button.disabled = true;
    status.textContent = "Asking…";
    model.send({ ask: "refresh" });
  };
  const answered = () => { drawBudgets(); drawProblem(); };

  model.on("change:budgets", drawBudgets);
  model.on("change:problem", drawProblem);
  model.on("msg:custom", answered);
  button.addEventListener("click", ask);
  drawBudgets();
  drawProblem();
  return () => {
    model.off("change:budgets", drawBudgets);
    model.off("change:problem", drawProblem);
    model.off("msg:custom", answered);
    button.removeEventListener("click", ask);
  };
}

export default { render };
