// Draws the requests of one analyst, one row per site that was asked.

function small(text) {
  return make("div", { class: "pn-small", text });
}

function row(request) {
  const who = make("td", { class: "pn-wide" }, make("div", { text: request.deciders }));
  if (request.until) who.append(small(`until ${request.until}`));
  const how = make("td", {}, state(request.state));
  if (request.since) how.append(small(`since ${request.since}`));
  const next = make("td", { class: "pn-wide" });
  if (request.next) {
    next.append(make(request.ready ? "code" : "div", {
      class: request.ready ? "pn-code pn-get" : null, text: request.next,
    }));
  }
  next.append(make("div", { class: "pn-small pn-code pn-question", text: request.question }));
  return make("tr", {},
    make("th", { scope: "row" }, make("div", { class: "pn-code", text: request.request }),
      small(request.asked)),
    make("td", {}, make("div", { text: request.site }), small(request.purpose)),
    how, who, next);
}

function render({ model, el }) {
  const view = viewing(model);
  const body = make("tbody");
  const table = make("table", {}, make("caption", { text: "Your requests" }),
    headings("request", "site", "state", "who decides", "what now"), body);
  const again = button("Ask the sites again");
  el.append(make("section", { class: "pn-card pn-requests", "aria-label": "Your requests" },
    table, make("div", { class: "pn-foot" }, again, view.status)));

  const draw = () => {
    const rows = model.get("rows");
    body.replaceChildren(...rows.map(row));
    table.hidden = rows.length === 0;
    busy(again, false);
    if (model.get("problem")) view.say(model.get("problem"), "problem");
    else view.say(rows.length ? "" : "You have asked nothing yet.");
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
