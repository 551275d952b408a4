// Draws where consents stand, and a form that asks an owner for one.

const HEADINGS = ["site", "table, purpose", "state", "until", "reason"];

function row(consent) {
  const key = JSON.stringify(consent.offer);
  const last = make("td", { class: "pn-ask" });
  if (consent.open && consent.offer) {
    last.append(button("Ask for it", {
      "data-key": key,
      "aria-label": `Ask ${consent.site} for ${consent.table}, ${consent.purpose}`,
    }));
  }
  const how = make("td", { "data-label": HEADINGS[2] }, state(consent.state));
  if (consent.since) how.append(make("div", { class: "pn-small", text: `since ${consent.since}` }));
  const cell = (at, ...texts) => make("td", { "data-label": HEADINGS[at] },
    ...texts.filter(Boolean).map((text, place) =>
      make("div", { class: place ? "pn-wrap pn-small" : "pn-wrap", text })));
  return make("tr", {},
    make("th", { scope: "row" }, make("div", { class: "pn-wrap", text: consent.site })),
    cell(1, consent.table, consent.purpose), how,
    make("td", { "data-label": HEADINGS[3], text: consent.until }), cell(4, consent.reason),
    last);
}

let forms = 0; // labels need ids, and a page may hold several views

function render({ model, el }) {
  const view = viewing(model);
  const id = `pn-consent-${Date.now().toString(36)}-${forms++}`;
  const body = make("tbody");
  const table = make("table", { class: "pn-stack" }, make("caption", { text: "Consent: which table, for what purpose" }),
    headings(...HEADINGS, ""), body);
  table.querySelector("th:last-child").append(make("span", { class: "pn-hidden", text: "ask" }));
  const again = button("Ask the sites again");

  const field = (name, words, element, note = "") => {
    element.id = `${id}-${name}`;
    const label = make("label", { for: element.id, text: words });
    if (note) label.append(make("span", { class: "pn-small", text: ` ${note}` }));
    return make("div", { class: `pn-field pn-field-${name}` }, label, element);
  };
  const choices = ["site", "table", "purpose"].map((name) => [name, control("select")]);
  const reason = control("textarea", { rows: "3" });
  const epsilon = control("input", { type: "text", inputmode: "decimal", size: "8" });
  const send = control("button", { type: "submit", class: "pn-send", text: "Ask the owner" });
  const form = make("form", { class: "pn-form", novalidate: "", "aria-labelledby": `${id}-title` },
    make("h4", { id: `${id}-title`, text: "Ask for access" }),
    make("div", { class: "pn-fields" },
      ...choices.map(([name, element]) => field(name, name, element)),
      field("epsilon", "budget hoped for", epsilon, "(epsilon; may stay empty)")),
    field("reason", "reason", reason, "(the owner decides by it)"),
    send);
  el.append(make("section", { class: "pn-card pn-consent", "aria-label": "Consent" },
    table, make("div", { class: "pn-foot" }, again), form,
    make("div", { class: "pn-foot" }, view.status)));

  const offers = () => model.get("consents").map((consent) => consent.offer).filter(Boolean);
  /** Fill the three choices, each with what goes with those before it; keep what was chosen. */
  const drawChoices = (wanted = choices.map(([, element]) => element.value)) => {
    let left = offers();
    choices.forEach(([, element], at) => {
      const values = [...new Set(left.map((offer) => offer[at]))];
      element.replaceChildren(...values.map((value) => make("option", { value, text: value })));
      element.value = values.includes(wanted[at]) ? wanted[at] : (values[0] ?? "");
      left = left.filter((offer) => offer[at] === element.value);
    });
    form.hidden = offers().length === 0;
  };
  const draw = () => {
    const consents = model.get("consents");
    redraw(body, () => body.replaceChildren(...consents.map(row)));
    table.hidden = consents.length === 0;
    drawChoices();
    if (model.get("problem")) view.say(model.get("problem"), "problem");
    else if (consents.length === 0) view.say("No site has said anything about consent yet.");
  };
  const heard = (message) => {
    busy(again, false);
    busy(send, false);
    draw();
    if (message.answered === "access") {
      if (!message.refused) reason.value = epsilon.value = "";
      view.say(message.refused || message.said, message.refused ? "problem" : "done");
    } else if (!model.get("problem")) {
      view.say("Asked just now.");
    }
  };
  const submit = () => {
    if (send.getAttribute("aria-disabled") === "true") return;
    if (!reason.value.trim()) {
      reason.setAttribute("aria-invalid", "true");
      view.say("Say what you want to find out: the owner decides by it.", "problem");
      reason.focus();
      return;
    }
    busy(send, true);
    const [site, name, purpose] = choices.map(([, element]) => element.value);
    view.ask({
      ask: "access", site, table: name, purpose, reason: reason.value, epsilon: epsilon.value,
    }, `Asking ${site}…`);
  };

  view.onModel("change:consents", draw);
  view.onModel("change:problem", draw);
  view.onModel("msg:custom", heard);
  view.on(again, "click", () => {
    busy(again, true);
    view.ask({ ask: "refresh" }, "Asking…");
  });
  for (const [, element] of choices) view.on(element, "change", () => drawChoices());
  view.on(body, "click", (event) => {
    const wanted = event.target.closest("button")?.dataset.key;
    if (wanted === undefined) return;
    drawChoices(JSON.parse(wanted));
    reason.focus();
  });
  view.on(reason, "input", () => reason.removeAttribute("aria-invalid"));
  view.on(form, "submit", (event) => {
    event.preventDefault();
    submit();
  });
  draw();
  return view.stop;
}

export default { render };
