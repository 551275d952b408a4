// Draws one federated run while a cell waits for it: the kernel tells how far it is, and hears
// nothing, so there is nothing to click.

const FEW = 8; // rounds that are drawn where there is little room
const FEWEST = 5; // where there is hardly any

/** Name the class of a round by its place, counted from the newest: which are left out first. */
function age(place) {
  return place >= FEW ? "pn-round pn-old" : place >= FEWEST ? "pn-round pn-newish" : "pn-round";
}

/** Make the cell of one site in one round: in words if it is the newest, else by its sign. */
function cell(look, number, place) {
  if (place === 0) return make("td", { class: "pn-round pn-newest" }, state(look));
  return make("td", { class: age(place) }, make("span", {
    role: "img",
    class: `pn-state pn-${look.tone}`,
    "aria-label": look.word,
    title: `round ${number}: ${look.word}`,
    text: look.mark,
  }));
}

/** Make the row of one site; places count from the newest round. */
function row(site, rounds, looks) {
  const name = make("th", { scope: "row", text: site.name });
  const joined = make("div", { class: "pn-joined" }, state(site.joined));
  if (rounds.length && site.told) name.append(joined);
  return make("tr", {}, name, ...(rounds.length ? [] : [make("td", {}, joined)]),
    ...rounds.map((number, i) => cell(looks[site.rounds[i]], number, rounds.length - 1 - i)));
}

function heading(number, place) {
  return make("th", { scope: "col", class: age(place), title: `round ${number}`, text: number });
}

function note(text, name = "") {
  return make("div", { class: `pn-note ${name}`.trim(), text });
}

/** Hide what stands in for the view in a saved notebook; return what ends that. */
function hide(twin) {
  if (!twin) return () => {};
  const style = make("style", { text: `.${CSS.escape(twin)} { display: none; }` });
  document.head.append(style);
  return () => style.remove();
}

function render({ model, el }) {
  const view = viewing(model);
  const unhide = hide(model.get("twin"));
  const caption = make("caption");
  const table = make("table");
  const notes = make("div");
  const advice = make("div", { class: "pn-note" });
  const curves = make("div", { class: "pn-curves" });
  view.status.classList.add("pn-hidden");
  el.append(make("section", { class: "pn-card pn-federated", "aria-label": "Federated run" },
    table, notes, curves, advice, view.status));

  const draw = () => {
    const now = model.get("view");
    const { rounds } = now;
    caption.textContent = `${now.caption} · ${now.seconds}`;
    const numbers = rounds.map((number, i) => heading(number, rounds.length - 1 - i));
    table.replaceChildren(caption,
      make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "site" }),
        ...(rounds.length ? [] : [make("th", { scope: "col", text: "takes part" })]), ...numbers)),
      make("tbody", {}, ...now.sites.map((site) => row(site, rounds, now.looks))));
    const legend = make("div", { class: "pn-note pn-legend" },
      ...Object.values(now.looks).map((look) => make("span", {}, state(look))));
    notes.replaceChildren(
      ...(rounds.length > 1 ? [legend] : []),
      ...(now.earlier ? [note(now.earlier, "pn-many")] : []),
      ...(rounds.length > FEW ? [note("earlier rounds not shown", "pn-few")] : []),
      ...(now.measured ? [note(now.measured)] : []),
      ...(now.remarks.length ? [make("ul", { class: "pn-note pn-remarks" },
        ...now.remarks.map((text) => make("li", { text })))] : []),
    );
    advice.textContent = now.advice;
    // read out only what has changed
    if (view.status.textContent !== now.caption) {
      view.say(now.caption);
      view.status.classList.add("pn-hidden");
    }
  };
  const drawCurves = () => {
    curves.replaceChildren(...model.get("curves").map(({ png, width, alt }) =>
      make("img", { src: `data:image/png;base64,${png}`, width, alt })));
  };

  view.onModel("change:view", draw);
  view.onModel("change:curves", drawCurves);
  draw();
  drawCurves();
  return () => {
    view.stop();
    unhide();
  };
}

export default { render };
