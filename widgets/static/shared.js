// What all widgets are drawn with; it stands in front of each one's own script. Everything shown
// came from somebody else, so it is only ever set as text, never as HTML.

const PATIENCE = 5000; // milliseconds after which a missing answer is explained

/** Make an element with text, attributes and children; an attribute that is null is left out. */
function make(name, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Make a control whose keys are its own: notebooks take Enter and letters for commands. */
function control(name, attributes = {}, ...children) {
  return make(name, { "data-lm-suppress-shortcuts": "true", ...attributes }, ...children);
}

/** Make a push button. */
function button(text, attributes = {}) {
  return control("button", { type: "button", text, ...attributes });
}

/** Mark a button as at work: it keeps the focus, which `disabled` would take from it. */
function busy(element, working) {
  element.setAttribute("aria-disabled", String(working));
}

/** Make a row of table headings. */
function headings(...texts) {
  return make("thead", {}, make("tr", {}, ...texts.map((text) => make("th", { scope: "col", text }))));
}

/** Make a state that is told by its word; the mark before it is for the eye alone. */
function state({ mark, word, tone }) {
  return make("span", { class: `pn-state pn-${tone}` },
    make("span", { class: "pn-mark", "aria-hidden": "true", text: mark }), ` ${word}`);
}

/** Draw what is inside an element anew; the focus and opened details stay, by their data-key. */
function redraw(element, draw) {
  const active = element.getRootNode().activeElement;
  const focused = active && element.contains(active) ? active.dataset.key : undefined;
  const find = (key) => element.querySelector(`[data-key="${CSS.escape(key)}"]`);
  const opened = new Map([...element.querySelectorAll("details[data-key]")]
    .map((details) => [details.dataset.key, details.open]));
  draw();
  for (const [key, open] of opened) {
    const details = find(key);
    if (details) details.open = open;
  }
  if (focused !== undefined) find(focused)?.focus({ preventScroll: true });
}

/** The listeners of one view, and its live region; `stop` takes all of them away. */
function viewing(model) {
  const status = make("div", { class: "pn-status", role: "status", "aria-live": "polite" });
  const stops = [];
  let late;
  const say = (text, tone = "") => {
    clearTimeout(late);
    status.className = tone ? `pn-status pn-${tone}` : "pn-status";
    status.textContent = text;
  };
  const on = (element, event, act) => {
    const unlessBusy = (happened) => {
      if (!happened.target.closest("[aria-disabled='true']")) act(happened);
    };
    element.addEventListener(event, unlessBusy);
    stops.push(() => element.removeEventListener(event, unlessBusy));
  };
  const onModel = (event, act) => {
    model.on(event, act);
    stops.push(() => model.off(event, act));
  };
  const ask = (message, waiting) => {
    model.send(message);
    if (waiting === undefined) return;
    say(waiting);
    late = setTimeout(
      () => { status.textContent = "No answer yet: the kernel is running a cell, or is gone."; },
      PATIENCE,
    );
  };
  const stop = () => {
    clearTimeout(late);
    for (const end of stops.splice(0)) end();
  };
  return { status, say, on, onModel, ask, stop };
}
