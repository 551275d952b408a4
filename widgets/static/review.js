// Draws the inbox of one reviewer: the list of requests, and all there is to see of one of them.

const MOST_CELLS = 5000; // of a table, until the reader asks for all
// milliseconds from one quiet look to the next
const SOON = 2000; // while the site's agent is at work on the request shown
const NOW_AND_THEN = 15000; // otherwise
const WORDS = {
  code: {
    question: "Your decision on the code",
    meaning: "it runs once inside the site, exactly as it stands here.",
    yes: ["approve", "✓ Approve"],
    no: ["deny", "✗ Deny"],
  },
  output: {
    question: "Your decision on the output",
    meaning: "the analyst receives exactly what is shown above.",
    yes: ["release", "✓ Release"],
    no: ["withhold", "✗ Withhold"],
  },
};

/** Make a titled part of the detail. */
function part(title, ...content) {
  return make("section", { class: "pn-part" }, make("h4", { text: title }), ...content);
}

/** Make a part that can be folded; `key` keeps it as the reader left it. */
function folded(key, title, open, ...content) {
  const details = make("details", { class: "pn-part", "data-key": key },
    control("summary", {}, make("h4", { text: title })), ...content);
  details.open = open;
  return details;
}

function quiet(text) {
  return make("p", { class: "pn-quiet", text });
}

function list(texts) {
  return make("ul", {}, ...texts.map((text) => make("li", { text })));
}

function facts(pairs) {
  return make("dl", { class: "pn-facts" }, ...pairs.flatMap(([name, value]) => [
    make("dt", { text: name }),
    make("dd", { text: value, class: /^[0-9a-f]{16,}$/.test(value) ? "pn-code" : null }),
  ]));
}

function pieces(line) {
  return line.map(([kind, text]) => kind
    ? make("span", { class: `pn-t-${kind}`, text })
    : document.createTextNode(text));
}

function code(detail) {
  const pointed = new Set(detail.pointed);
  return make("ol", { class: "pn-lines" }, ...detail.code.map((line, index) => {
    const number = index + 1;
    return make("li", {
      "data-line": number,
      "data-sign": pointed.has(number) ? "!" : "",
      tabindex: "-1",
    }, make("code", {}, ...pieces(line)));
  }));
}

function findings(detail) {
  if (detail.findings.length === 0) {
    return quiet("The scan found nothing. It cannot tell what the code is for: read it.");
  }
  return make("ul", {}, ...detail.findings.map((finding) => make("li", {},
    ...finding.map(([text, line]) => line
      ? button(text, { class: "pn-link", "data-goto": line, "aria-label": `${text}: show it` })
      : document.createTextNode(text)))));
}

function difference(lines) {
  const names = { "+": "ins", "-": "del" };
  return make("div", { class: "pn-lines pn-difference" }, ...lines.map(([sign, line]) =>
    make(names[sign] ?? "div", { class: sign === "@" ? "pn-where" : null, "data-sign": sign === "@" ? "" : sign },
      make("code", {}, ...pieces(line)))));
}

function cell(value, column, name = "td") {
  const kind = column.number ? "pn-number" : "pn-text";
  const attributes = { class: kind, scope: name === "th" ? "row" : null };
  return value === null
    ? make(name, attributes, make("em", { class: "pn-quiet", text: "none" }))
    : make(name, { ...attributes, text: value });
}

function output(drawn, caption) {
  if (drawn.png) {
    const image = make("img", { src: `data:image/png;base64,${drawn.png}`, alt: drawn.caption });
    return make("figure", {}, image, make("figcaption", { class: "pn-small", text: drawn.caption }));
  }
  const body = make("tbody");
  const { columns, rows } = drawn;
  const draw = (count) => body.replaceChildren(...rows.slice(0, count).map((row) =>
    make("tr", {}, ...row.map((value, at) =>
      cell(value, columns[at], columns[at].index ? "th" : "td")))));
  const count = Math.max(1, Math.floor(MOST_CELLS / Math.max(1, columns.length)));
  draw(count);
  const head = make("tr", {}, ...columns.map((column) => make("th", {
    scope: "col", class: column.number ? "pn-number" : "pn-text",
  }, make("div", { text: column.name }), make("div", { class: "pn-small", text: column.type }))));
  const table = make("div", { class: "pn-scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", { class: "pn-small", text: drawn.caption }),
      make("thead", {}, head), body));
  if (rows.length <= count) return table;
  const all = button(`Show all ${rows.length} rows`);
  all.addEventListener("click", () => { draw(rows.length); all.remove(); }, { once: true });
  return make("div", {}, table, all);
}

function mock(detail) {
  if (!detail.mock) return quiet(detail.mock_problem || "It has not been run on the mock twin.");
  return output(detail.mock, "Result of the mock run");
}

/** Everything there is to see of a request, what is decided about first. */
function parts(detail) {
  const onOutput = detail.stage === "output";
  const drawn = [];
  if (detail.output) {
    drawn.push(make("section", { class: "pn-part pn-sealed" },
      make("h4", { text: "The output" }),
      make("p", {}, make("strong", { text: "Real data. " }), "It has not left the site."),
      output(detail.output, "The output")));
  }
  if (detail.gate.length || detail.output) {
    drawn.push(part("What the gate says of the output", detail.gate.length
      ? list(detail.gate)
      : quiet("The gate has no objection.")));
  }
  drawn.push(part("What the scan says of the code", findings(detail)));
  const count = `${detail.code.length} line${detail.code.length === 1 ? "" : "s"}`;
  drawn.push(part(`Code · ${count}`, make("div", {
    class: "pn-pane", tabindex: "0", role: "region", "aria-label": `Code, ${count}`,
  }, code(detail))));
  if (detail.parameters.length) drawn.push(part("Parameters", facts(detail.parameters)));
  for (const { words, to, lines } of detail.differences) {
    drawn.push(folded(`difference ${words}`, `${words} · ${to}`, !onOutput, lines.length
      ? make("div", { class: "pn-pane", tabindex: "0", role: "region", "aria-label": words },
        difference(lines))
      : quiet("Nothing changed in code, parameters or purpose.")));
  }
  drawn.push(folded("mock", "Result on the mock twin: synthetic rows", !onOutput, mock(detail)));
  drawn.push(folded("uses", "Imports and columns", !onOutput, facts([
    ["imports", detail.imports.join(", ") || "none"],
    ["columns", detail.columns.join(", ") || "none seen"],
  ])));
  drawn.push(folded("analyst", `Budget and history of ${detail.analyst}`, !onOutput,
    make("p", { text: detail.budget || "No budget is granted." }),
    detail.history.length ? list(detail.history) : quiet("Nothing was asked before.")));
  return drawn;
}

function approvals(detail) {
  const { needed, others } = detail;
  const some = detail.approvals.length ? `: ${detail.approvals.join(", ")}` : "";
  const rest = others.length ? ` · may still decide: ${others.join(", ")}` : "";
  return `${detail.approvals.length} of ${needed} approvals${some}${rest}`;
}

/** Draw; if that takes away what had the focus in `element`, it goes to what `next` finds. */
function keepFocus(element, next, draw) {
  const focused = element.getRootNode().activeElement;
  const inside = focused !== null && focused !== element && element.contains(focused);
  draw();
  const kept = element.getRootNode().activeElement;
  if (!inside || (element.contains(kept) && !kept.closest("[hidden]"))) return;
  next().focus({ preventScroll: true });
}

const looks = new WeakMap(); // how each part of a detail looked when it was made

/** Put parts in place of those there; one that shows the same stays, as the reader left it. */
function renew(body, parts) {
  const there = new Map([...body.children].map((part) => [looks.get(part), part]));
  const wanted = parts.map((part) => {
    looks.set(part, part.innerHTML);
    return there.get(part.innerHTML) ?? part;
  });
  for (const part of there.values()) if (!wanted.includes(part)) part.remove();
  wanted.forEach((part, at) => {
    if (body.children[at] !== part) body.insertBefore(part, body.children[at] ?? null);
  });
}

/**
 * Look quietly, again and again, while the page is seen: `pace` milliseconds after each answer, so
 * that there is never more than one look under way. `look` says whether it looked.
 */
function watching(look, pace) {
  let timer;
  let underWay = false;
  const wait = () => {
    clearTimeout(timer);
    if (!underWay && !document.hidden) timer = setTimeout(now, pace());
  };
  const now = () => {
    if (underWay || document.hidden) return;
    underWay = look();
    wait();
  };
  const answered = () => {
    underWay = false;
    wait();
  };
  const turned = () => {
    clearTimeout(timer);
    now();
  };
  document.addEventListener("visibilitychange", turned);
  const stop = () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", turned);
    underWay = true; // a late answer starts nothing
  };
  wait();
  return { wait, answered, stop };
}

function render({ model, el }) {
  const view = viewing(model);
  const name = Math.random().toString(36).slice(2); // answers go to all views
  let selected = null; // key of the request in the detail
  let shown = null; // what the detail shows
  let deciding = null; // key of the request whose decision is under way
  let outcome = [""]; // what the last decision came to, until the reader does something else
  let failure = ""; // why the last quiet look did not find the request shown
  let open = new Set(); // keys of what waits for this reader
  const fresh = new Set(); // those of them that came in by themselves, until they are opened

  const again = button("Look again");
  const count = make("span", { class: "pn-quiet" });
  const news = make("span", { class: "pn-quiet pn-news", role: "status" });
  const items = make("div", { class: "pn-items" });
  const title = make("h3", { class: "pn-title", tabindex: "-1" });
  const facts_ = make("div");
  const body = make("div", { class: "pn-parts" });
  const reason = control("textarea", { rows: "3", "aria-describedby": "" });
  const hint = make("span", { class: "pn-small" });
  const label = make("label", {}, make("span", { text: "Reason " }), hint, reason);
  const yes = button("", { class: "pn-yes" });
  const no = button("", { class: "pn-no" });
  const question = make("h4");
  const meaning = make("p", { class: "pn-quiet" });
  const counted = make("p", { class: "pn-counted" });
  const blocked = make("p", { class: "pn-blocked" });
  const choice = make("div", {}, meaning, label, make("div", { class: "pn-buttons" }, yes, no));
  const decision = make("section", { class: "pn-decision" }, question, counted, blocked, choice);
  const article = make("article", { class: "pn-detail" }, title, facts_, body, decision);
  const panes = make("div", { class: "pn-panes" },
    make("nav", { class: "pn-list", "aria-label": "Requests" }, items), article);
  el.append(make("section", { class: "pn-card pn-review", "aria-label": "Review inbox" },
    make("header", { class: "pn-bar" }, make("h3", { text: "Review inbox" }), count, news, again),
    panes, make("div", { class: "pn-foot" }, view.status)));

  const entry = (item) => make("li", {}, control("button", {
    type: "button",
    class: "pn-item",
    "data-key": item.key,
    "aria-current": item.key === selected ? "true" : null,
    tabindex: "-1",
  },
  make("span", { class: "pn-line" }, make("strong", { class: "pn-cut", text: item.analyst }),
    make("span", { class: "pn-small", text: (fresh.has(item.key) ? "new · " : "") + item.waited })),
  make("span", { class: "pn-line" }, make("span", { class: "pn-cut", text: item.purpose }),
    make("span", { class: "pn-small pn-code", text: item.short })),
  make("span", { class: "pn-line" }, state(item.state),
    make("span", { class: "pn-small", text: item.approvals },
      make("span", { class: "pn-hidden", text: " approvals" })))));

  const notice = () => {
    // without a key nothing can be decided, and all of it can be read
    const waiting = model.get("requests").filter((item) => item.open || !model.get("reviewer"));
    const before = open;
    open = new Set(waiting.map((item) => item.key));
    for (const key of open) if (!before.has(key) && key !== selected) fresh.add(key);
    for (const key of fresh) if (!open.has(key)) fresh.delete(key);
  };

  const drawItems = (mine, rest) => {
    items.replaceChildren();
    const group = (words, some) => {
      if (some.length === 0) return;
      items.append(make("h4", { text: `${words} · ${some.length}` }),
        make("ul", {}, ...some.map(entry)));
    };
    group("For you to decide", mine);
    group(mine.length ? "Others" : "Not for you to decide", rest);
    if (mine.length + rest.length === 0) items.append(quiet("Nothing waits for review."));
    // one stop for the Tab key; arrows move within the list
    const entries = items.querySelectorAll(".pn-item");
    (items.querySelector("[aria-current]") ?? entries[0])?.setAttribute("tabindex", "0");
  };

  const drawList = () => {
    const all = model.get("requests");
    const mine = all.filter((item) => item.open);
    const rest = all.filter((item) => !item.open);
    const words = fresh.size ? `${fresh.size} new` : "";
    if (words !== news.textContent) news.textContent = words; // said once
    count.textContent = model.get("reviewer")
      ? `${mine.length} for you · deciding as ${model.get("reviewer")}`
      : "read only: there is no reviewer's key here";
    const nearest = () => items.querySelector(".pn-item[tabindex='0']") ?? again;
    keepFocus(items, nearest, () => redraw(items, () => drawItems(mine, rest)));
    panes.classList.toggle("pn-empty", all.length === 0 && shown === null);
    article.hidden = shown === null;
    if (model.get("problem")) view.say(model.get("problem"), "problem");
  };

  const drawDecision = (detail) => {
    const words = WORDS[detail.stage] ?? WORDS.code;
    question.textContent = detail.stage ? words.question : "Decision";
    const enough = `${detail.needed} approval${detail.needed === 1 ? "" : "s"}`;
    meaning.textContent = `With ${enough}, ${words.meaning}`;
    hint.textContent = `(needed to ${words.no[0]}; the analyst reads it)`;
    counted.textContent = approvals(detail);
    blocked.textContent = detail.blocked;
    blocked.hidden = !detail.blocked;
    choice.hidden = Boolean(detail.blocked);
    for (const [element, [verdict, text]] of [[yes, words.yes], [no, words.no]]) {
      element.textContent = text;
      element.dataset.verdict = verdict;
    }
  };

  const drawDetail = (detail) => {
    if (JSON.stringify(detail) === JSON.stringify(shown)) return; // the reader's place stays
    const other = detail.key !== shown?.key;
    if (other) {
      reason.value = "";
      body.replaceChildren();
    }
    shown = detail;
    keepFocus(article, () => title, () => drawParts(detail));
    watch.wait();
  };

  const drawParts = (detail) => {
    title.replaceChildren(make("span", { class: "pn-name", text: detail.analyst }),
      make("span", { class: "pn-for", text: ` for ${detail.purpose}` }), state(detail.state));
    facts_.replaceChildren(facts(detail.facts));
    redraw(body, () => renew(body, parts(detail)));
    drawDecision(detail);
    article.hidden = false;
  };

  /** Take in what a quiet look found; what the reader may be deciding on stays as they see it. */
  const learn = ({ detail, problem }) => {
    const say = (...words) => {
      if (words[0] === outcome[0]) return;
      outcome = words;
      view.say(...outcome);
    };
    if (problem !== failure) say(problem, problem && "problem");
    failure = problem;
    if (!detail) return;
    const before = shown?.key === detail.key ? shown : null;
    const now = detail.state.word;
    const differs = ["stage", "digest", "output_digest"].some((of) => before?.[of] !== detail[of]);
    if (before !== null && !before.blocked && differs) {
      say(`This request has changed: ${now}. Look again before you decide.`, "problem");
      return;
    }
    drawDetail(detail);
    if (before !== null && before.state.word !== now) say(`Now: ${now}.`, "done");
  };

  const choose = (key) => {
    selected = key;
    fresh.delete(key);
    outcome = [""];
    failure = "";
    view.ask({ ask: "open", key }, "Opening…");
    drawList();
  };

  const invalid = (wrong) => {
    if (wrong) reason.setAttribute("aria-invalid", "true");
    else reason.removeAttribute("aria-invalid");
  };

  const decide = (verdict) => {
    if (deciding !== null || shown === null) return;
    if ((verdict === "deny" || verdict === "withhold") && !reason.value.trim()) {
      invalid(true);
      view.say(`Say why before you ${verdict}: the analyst reads it.`, "problem");
      reason.focus();
      return;
    }
    deciding = shown.key;
    busy(yes, true);
    busy(no, true);
    view.ask({
      ask: "decide",
      key: shown.key,
      digest: shown.digest,
      output: shown.output_digest,
      verdict,
      reason: reason.value,
    }, "Deciding…");
  };

  const heard = (message) => {
    if (message.answered === "refresh") {
      busy(again, false);
      view.say("");
      drawList();
      if (selected !== null) view.ask({ ask: "open", key: selected });
      return;
    }
    const here = message.key === selected; // not of another view, nor of an earlier choice
    if (message.answered === "look" && message.view === name) {
      if (here && deciding === null) learn(message);
      watch.answered();
    }
    if (message.answered === "open" && here) {
      view.say(...(message.problem ? [message.problem, "problem"] : outcome));
      if (message.detail) drawDetail(message.detail);
    }
    if (message.answered === "decide" && (here || message.key === deciding)) {
      if (message.key === deciding) {
        deciding = null;
        busy(yes, false);
        busy(no, false);
      }
      if (here && !message.refused) reason.value = "";
      if (here && message.detail) drawDetail(message.detail);
      drawList();
      const about = here ? "" : `${message.key}: `; // the reader has gone on to another request
      outcome = [about + (message.refused || message.said), message.refused ? "problem" : "done"];
      view.say(...outcome);
      if (here && choice.hidden) title.focus({ preventScroll: true }); // the buttons are gone
    }
  };

  const point = (line) => {
    for (const lit of body.querySelectorAll(".pn-lit")) lit.classList.remove("pn-lit");
    const target = body.querySelector(`.pn-lines > [data-line="${line}"]`);
    target.classList.add("pn-lit");
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "nearest" });
  };

  const move = (event) => {
    const entries = [...items.querySelectorAll(".pn-item")];
    const at = entries.indexOf(event.target.closest(".pn-item"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    entries[Math.min(Math.max(to, 0), entries.length - 1)].focus();
  };

  const watch = watching(() => {
    if (deciding !== null || again.getAttribute("aria-disabled") === "true") return false;
    const mark = shown !== null && shown.key === selected ? shown.mark : "";
    view.ask({ ask: "look", view: name, key: selected ?? "", mark });
    return true;
  }, () => (shown?.moving && shown.key === selected ? SOON : NOW_AND_THEN));

  view.onModel("change:requests", () => {
    notice();
    drawList();
  });
  view.onModel("change:problem", () => {
    drawList();
    if (!model.get("problem")) view.say(...outcome);
  });
  view.onModel("msg:custom", heard);
  view.on(again, "click", () => {
    busy(again, true);
    fresh.clear();
    outcome = [""];
    failure = "";
    view.ask({ ask: "refresh" }, "Looking…");
  });
  view.on(items, "click", (event) => {
    const item = event.target.closest(".pn-item");
    if (item) choose(item.dataset.key);
  });
  view.on(items, "keydown", move);
  view.on(body, "click", (event) => {
    const line = event.target.closest("[data-goto]");
    if (line) point(line.dataset.goto);
  });
  view.on(reason, "input", () => invalid(false));
  view.on(yes, "click", () => decide(yes.dataset.verdict));
  view.on(no, "click", () => decide(no.dataset.verdict));
  notice();
  fresh.clear();
  drawList();
  return () => {
    watch.stop();
    view.stop();
  };
}

export default { render };
