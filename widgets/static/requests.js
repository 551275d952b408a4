// Draws the requests of one analyst, one row per site that was asked.

const HEADINGS = ["request", "site", "state", "who decides, what now"];

function small(text) {
  return make("div", { class: "pn-small pn-wrap", text });
}

/** Tell where a request stands at one site, as the cells after its heading. */
function cells(request) {
  const site = make("td", { "data-label": HEADINGS[1] },
    make("div", { class: "pn-wrap", text: request.site }));
  const how = make("td", { "data-label": HEADINGS[2] }, state(request.state));
  if (request.since) how.append(small(`since ${request.since}`));
  const next = make("td", { class: "pn-wide", "data-label": HEADINGS[3] });
  if (request.deciders) next.append(make("div", { class: "pn-wrap", text: request.deciders }));
  if (request.until) next.append(small(`until ${request.until}`));
  if (request.ready) next.append(make("code", { class: "pn-code pn-get", text: request.next }));
  else if (request.next) next.append(make("div", { class: "pn-wrap", text: request.next }));
  return [site, how, next];
}

/** Draw the rows of one request, one per site; its name heads them all. */
function rows(sites) {
  const [first] = sites;
  const heading = make("th", { scope: "rowgroup", rowspan: sites.length },
    make("div", {}, make("span", { class: "pn-code", text: first.request }),
      make("span", { class: "pn-small", text: ` · ${first.asked}` })),
    small(first.purpose),
    make("div", { class: "pn-small pn-code pn-question", text: first.question }));
  return sites.map((site, at) => make("tr", {}, ...(at === 0 ? [heading] : []), ...cells(site)));
}

/** Gather what belongs to one request; a request's sites follow each other. */
function gathered(all) {
  const groups = [];
  for (const row of all) {
    if (groups.at(-1)?.[0].request === row.request) groups.at(-1).push(row);
    else groups.push([row]);
  }
  return groups;
}

function render({ model, el }) {
  const view = viewing(model);
  const table = make("table", { class: "pn-stack" });
  const caption = make("caption", { text: "Your requests" });
  const again = button("Ask the sites again");
  el.append(make("section", { class: "pn-card pn-requests", "aria-label": "Your requests" },
    table, make("div", { class: "pn-foot" }, again, view.status)));

  const draw = () => {
    const all = model.get("rows");
    table.replaceChildren(caption, headings(...HEADINGS),
      ...gathered(all).map((sites) => make("tbody", {}, ...rows(sites))));
    table.hidden = all.length === 0;
    busy(again, false);
    if (model.get("problem")) view.say(model.get("problem"), "problem");
    else view.say(all.length ? "" : "You have asked nothing yet.");
  };
  const answered = () => {
    draw();
    if (!model.get("problem") && model.get("rows").length) view.say("Asked just now.");
  };

  view.onModel("change:rows", draw);
  view.onModel("change:problem", draw);
  view.onModel("msg:custom", answered);
  view.on(again, "click", () => {
    busy(again, true);
    view.ask({ ask: "refresh" }, "Asking…");
  });
  draw();
  return view.stop;
}

export default { render };
