"use strict";

/* The page of streams: how many, what ends first and what lifts it; the cards; four limits with their ranges; mix, premises. */
(() => {
  const { node, chip, code, choose, onChoice, card, at } = page;
  const COLOURS = { vram: "weight", decode: "input", compute: "activation", pcie: "output" };
  let content = null;

  const many = () => content.cards.length > 1;
  const which = (index) => (many() ? " · " + content.cards[index].name : "");

  function answers() {
    const box = node("div", { class: "cards" });
    onChoice((index) => {
      const one = content.cards[index];
      box.replaceChildren(
        card("peak", "How many" + which(index), node("span", { id: "streams" }, one.streams + (one.is_open ? "?" : "")),
          node("p", null, `${one.range} with every doubt counted.`), node("p", { class: "muted small" }, one.memory + ".")),
        card("cause", "What ends first" + which(index), [chip(COLOURS[one.binding]), one.ends], node("p", null, one.why), one.next ? node("p", { class: "muted" }, one.next) : null),
        page.remedyCard(content.without.title, content.without.big, content.without.sentence));
    });
    return box;
  }

  /* A bar to the nominal count, and the thin line of its range; where it is cut an arrow says that it goes on. */
  function bar(kind, sizes, label) {
    const fill = at(node("span", { class: "c-" + kind }), 0, sizes.nominal);
    const box = node("div", { class: "bar-box", role: "img", "aria-label": label }, node("div", { class: "bar-track" }), fill);
    if (sizes.high > sizes.low) box.append(at(node("div", { class: "bar-range" }), sizes.low, sizes.high));
    if (sizes.is_cut) box.append(node("span", { class: "bar-more" }, "»"));
    return box;
  }

  function axis(ticks) {
    return node("div", { class: "axis", "aria-hidden": "true" }, ticks.map((tick) => at(node("span", null, tick.text), tick.share)));
  }

  function cards() {
    const body = node("tbody", null, content.cards.map((one, index) => node("tr", null,
      node("th", { scope: "row" }, node("button", { type: "button", "aria-pressed": "false", onclick: () => choose(index) }, one.name)),
      node("td", { class: "bar" }, bar(COLOURS[one.binding], one.bar, `${one.streams} streams, ${one.range}`)),
      node("td", { class: "number" }, node("b", null, one.streams + (one.is_open ? "?" : ""))), node("td", { class: "number muted" }, one.range),
      node("td", null, chip(COLOURS[one.binding]), one.ends), node("td", { class: "number", "data-name": "usable" }, one.usable))));
    const foot = node("tr", { class: "axis-row" }, node("td", null), node("td", { class: "bar" }, axis(content.ticks)), node("td", { class: "rest", colspan: "4" }));
    onChoice((index) => [...body.rows].forEach((line, place) => {
      line.classList.toggle("selected", place === index);
      line.querySelector("button").setAttribute("aria-pressed", String(place === index));
    }));
    return node("section", { class: "long", id: "cards", "aria-labelledby": "h-cards" }, node("h2", { id: "h-cards" }, "The cards"),
      node("p", { class: "muted small" }, "Choose one: the limits below are of it."),
      node("table", { class: "budget" }, node("caption", { class: "hidden" }, "Streams of each card"),
        node("thead", null, node("tr", null, ["card", "streams", "nominal", "low–high", "ends first", "usable"].map((name, column) => node("th", { scope: "col", class: [2, 3, 5].includes(column) ? "number" : null }, name)))),
        body, node("tfoot", null, foot)));
  }

  function limitRow(limit, answer) {
    const box = limit.bar ? bar(COLOURS[limit.name], limit.bar, `${limit.title}: ${limit.streams} streams, ${limit.range}`) : node("span", { class: "muted" }, limit.reason || "no number");
    if (limit.bar) box.append(at(node("div", { class: "bar-limit" }), answer));
    return node("tr", { class: limit.is_binding ? "binds" : null },
      node("th", { scope: "row" }, chip(COLOURS[limit.name]), limit.title, limit.is_binding ? node("span", { class: "tag" }, "ends first") : null),
      node("td", { class: "bar" }, box),
      node("td", { class: "number" }, node("b", null, limit.streams)), node("td", { class: "number muted" }, limit.range),
      node("td", { class: "number", "data-name": "load" }, limit.load), node("td", { class: "number", "data-name": "has" }, limit.has),
      node("td", { class: "number", "data-name": "a stream takes" }, limit.takes), node("td", { "data-name": "evidence" }, limit.evidence));
  }

  function limits() {
    const section = node("section", { id: "limits", "aria-labelledby": "h-limits" });
    onChoice((index) => {
      const one = content.cards[index], heads = ["limit", "streams", "nominal", "low–high", "load", "has", "a stream takes", "evidence"];
      section.replaceChildren(node("h2", { id: "h-limits" }, "Four limits" + which(index)),
        node("p", { class: "muted small" }, `How many streams each would carry alone. Dashed line: the ${one.streams} that all of them carry; “load” is what those use of each.`),
        node("table", { class: "budget limits" }, node("caption", { class: "hidden" }, "The four limits"),
          node("thead", null, node("tr", null, heads.map((name, column) => node("th", { scope: "col", class: column > 1 && column < 7 ? "number" : null }, name)))),
          node("tbody", null, one.limits.map((limit) => limitRow(limit, one.answer))),
          node("tfoot", null, node("tr", { class: "axis-row" }, node("td", null), node("td", { class: "bar" }, axis(one.ticks)), node("td", { class: "rest", colspan: "6" })))),
        one.notes.length ? node("ul", { class: "notes" }, one.notes.map((note) => node("li", null, note))) : "",
        sources(one));
    });
    return section;
  }

  function sources(one) {
    const known = one.limits.filter((limit) => limit.sources.length);
    return node("details", null, node("summary", null, "Where these numbers are from"),
      node("ul", { class: "notes" }, known.map((limit) => node("li", null, node("b", null, limit.title + ": "), limit.sources.join("; ")))));
  }

  function mix() {
    return node("section", { id: "mix", "aria-labelledby": "h-mix" }, node("h2", { id: "h-mix" }, "The mix of cameras"),
      node("p", { class: "muted small" }, "The answer counts cameras in these proportions."),
      node("table", { class: "budget" }, node("caption", { class: "hidden" }, "Cameras"),
        node("thead", null, node("tr", null, ["video", "share of the cameras", "", "sent", "seen by the model"].map((name, column) => node("th", { scope: "col", class: column > 1 ? "number" : null }, name)))),
        node("tbody", null, content.mix.map((one) => node("tr", null, node("th", { scope: "row" }, one.name),
          node("td", { class: "bar" }, node("div", { class: "bar-box", role: "img", "aria-label": one.percent }, node("div", { class: "bar-track" }), at(node("span", { class: "c-input" }), 0, one.share))),
          node("td", { class: "number" }, one.percent), node("td", { class: "number", "data-name": "sent" }, one.decoded), node("td", { class: "number", "data-name": "seen by the model" }, one.seen))))));
  }

  const PREMISE = ["what", "value", "flag", "evidence", "from"];
  function premises() {
    const section = node("section", { class: "long", id: "premises", "aria-labelledby": "h-premises" });
    onChoice((index) => section.replaceChildren(node("h2", { id: "h-premises" }, "What was assumed" + which(index)),
      node("p", { class: "muted small" }, "Who knows better gives the flag."),
      node("table", { class: "stacked" }, node("caption", { class: "hidden" }, "Assumptions"), node("thead", null, node("tr", null, PREMISE.map((name) => node("th", { scope: "col" }, name)))),
        node("tbody", null, content.cards[index].assumptions.map(([what, ...facts]) => node("tr", null, node("th", { scope: "row" }, what),
          facts.map((text, column) => node("td", { "data-name": PREMISE[column + 1] }, column === 1 && text ? code(text) : text))))))));
    return section;
  }

  page.kinds.streams = (made) => {
    content = made;
    return [page.verdict(), answers(), many() ? cards() : null, limits(), content.mix.length > 1 ? mix() : null, premises(), page.notes()].filter(Boolean);
  };
})();
