"use strict";

/* The page of memory: estimate, replay and verify. Peak, cause and remedy; the budget; who is alive at the peak; workspace.
   All sums, shares and choices come with the content; here they are put on the page. */
(() => {
  const { node, size, percent, chip, code, named, choose, onChoice, card, grid, sortable, share, at } = page;
  const PARTS = ["weights", "inputs", "activations", "outputs", "workspace", "allocator_slack", "context"];
  const MEANINGS = {
    weights: "weights", inputs: "inputs", activations: "activations", outputs: "outputs", workspace: "workspace",
    allocator_slack: "allocator slack", context: "CUDA context",
  };
  let content = null, report = null, rows = [];

  const which = (index) => (rows.length > 1 ? " · " + content.cells[index].label : "");

  /* ---- the three answers ---- */
  function answers() {
    const box = node("div", { class: "cards" });
    onChoice((index) => {
      const both = [peakCard(index), causeCard(index)];
      box.replaceChildren(...(content.kind === "verify" ? [residualCard(), ...both] : [...both, helpCard()]));
    });
    return box;
  }

  function peakCard(index) {
    const row = rows[index], cell = content.cells[index];
    return card("peak", "The peak" + which(index), node("span", { id: "peak-total" }, cell.total + " " + cell.unit),
      node("p", null, "what the process takes", cell.range ? `, ${cell.range} ${cell.unit} with every doubt` : "", "; reached while ",
        code(row.peak.op), ` runs, op ${row.peak.index} of ${cell.last_op_index}.`),
      content.pictures[index] && node("a", { href: "#timeline", class: "no-print" }, "See it on the timeline"));
  }

  function causeCard(index) {
    const row = rows[index], cell = content.cells[index], cause = cell.cause;
    return card("cause", "What takes it" + which(index),
      [chip(cause.part), `${MEANINGS[cause.part]} `, node("span", { class: "whole" }, `${cell.parts[cause.part]} ${cell.unit}`)],
      node("p", null, cause.sentence),
      node("ol", null, cause.live.map((place) => row.peak.live[place]).map((item) => node("li", null, code(item.name), `, ${size(item.size_bytes)}`,
        node("span", { class: "muted" }, item.until ? " until " : " to the end", item.until ? code(item.until) : null)))));
  }

  const residualCard = () => card("remedy", "Predicted less measured", content.residual, node("p", null, content.residual_note));
  const helpCard = () => page.remedyCard(content.without.title + which(content.focus), content.without.big, content.without.sentence);

  /* ---- budget ---- */
  function budget() {
    const body = node("tbody", null, rows.map(budgetRow));
    const section = node("section", { "aria-labelledby": "h-budget", id: "budget" }, node("h2", { id: "h-budget" }, "The budget, part by part"),
      node("p", { class: "muted small" }, "What is held at the peak; the parts add up to what nvidia-smi shows for the process. The thin line is the range. ", content.limit.sentence,
        rows.length > 1 ? " Choose a row: the pictures below are of it." : ""),
      node("ul", { class: "legend" }, PARTS.map((part) => node("li", null, chip(part), MEANINGS[part]))),
      node("table", { class: "budget" }, node("caption", { class: "hidden" }, "Total memory of each cell"),
        node("thead", null, node("tr", null, ["cell", "parts", "total", "low–high"].map((name, column) => node("th", { scope: "col", class: column > 1 ? "number" : null }, name)))), body),
      numbers());
    onChoice((index) => [...body.rows].forEach((line, place) => {
      line.classList.toggle("selected", rows.length > 1 && place === index);
      line.querySelector("button")?.setAttribute("aria-pressed", String(place === index));
    }));
    return section;
  }

  function budgetRow(row, index) {
    const cell = content.cells[index];
    const label = PARTS.map((part) => `${MEANINGS[part]} ${cell.parts[part]}`).join(", ") + " " + cell.unit;
    const stack = node("div", { class: "bar-stack" });
    for (const part of PARTS.filter((part) => cell.bar[part])) {
      const piece = node("span", { class: "c-" + part, title: `${MEANINGS[part]}: ${size(row.budget[part + "_bytes"])}, ${row.evidence[part]}` });
      piece.style.width = 100 * cell.bar[part] + "%";
      stack.append(piece);
    }
    const box = node("div", { class: "bar-box", role: "img", "aria-label": label }, stack);
    if (cell.range) box.append(at(node("div", { class: "bar-range" }), ...cell.bar_range));
    if (content.limit.share !== null) box.append(at(node("div", { class: "bar-limit" }), content.limit.share));
    return node("tr", null,
      node("th", { scope: "row" }, rows.length > 1 ? node("button", { type: "button", "aria-pressed": "false", onclick: () => choose(index) }, cell.label) : cell.label),
      node("td", { class: "bar" }, box),
      node("td", { class: "number" }, node("b", null, `${cell.total} ${cell.unit}`), cell.mark ? " " + cell.mark : ""),
      node("td", { class: "number muted" }, cell.range));
  }

  function numbers() {
    const head = ["cell", ...PARTS.map((part) => MEANINGS[part]), "total", "bytes"];
    const lines = rows.map((row, index) => [content.cells[index].label, ...PARTS.map((part) => content.cells[index].parts[part]),
      content.cells[index].total + " " + content.cells[index].unit, row.total_bytes.toLocaleString("en-US")]);
    return node("details", null, node("summary", null, "The numbers"), grid(head, lines, new Set(["cell"]), "Every part of every cell"));
  }

  function alive() {
    const box = node("div");
    onChoice((index) => {
      const live = rows[index].peak.live, { weights, whole_bytes: whole } = content.cells[index].alive;
      const packed = live.filter((item) => item.role !== "weight").concat(weights.length ? [weights[0]] : []);
      let open = false;
      const place = node("div");
      const toggle = node("button", { type: "button", class: "no-print", "aria-pressed": "false", onclick: () => { open = !open; fill(); } }, "Each weight on its own");
      function fill() {
        toggle.setAttribute("aria-pressed", String(open));
        const items = open ? live : packed, most = Math.max(...items.map((item) => item.size_bytes), 1);
        place.replaceChildren(sortable(`${live.length} buffers, ${size(whole)} as requested`,
          [{ name: "buffer", key: "name" }, { name: "role", key: "role" }, { name: "size", key: "size_bytes", number: true }, { name: "bar", bar: true }, { name: "of all", number: true }, { name: "until", key: "until" }],
          (item) => node("tr", null, node("td", { class: "name" }, code(item.name)), node("td", { class: "whole" }, chip(item.role), item.role), node("td", { class: "number" }, size(item.size_bytes)),
            node("td", { class: "wide-only" }, share(item.role, item.size_bytes, most)), node("td", { class: "number" }, percent(item.size_bytes, whole)), node("td", { class: "name", "data-name": "until" }, item.until ? code(item.until) : "the end")),
          items, ["size_bytes", true]));
      }
      fill();
      box.replaceChildren(node("h2", { id: "h-alive" }, "Who is alive at the peak" + which(index)),
        node("p", { class: "muted small" }, content.cells[index].peak_sentence), weights.length && weights[0].count > 1 ? toggle : "", place);
    });
    return node("section", { class: "long", "aria-labelledby": "h-alive", id: "alive" }, box);
  }

  function workspace() {
    const section = node("section", { class: "long", "aria-labelledby": "h-workspace", id: "workspace" });
    onChoice((index) => {
      const picture = content.pictures[index];
      const items = (picture ? picture.layers : []).map(([name, kind, bytes, live, remedy]) => ({ name: named(name), kind: named(kind), bytes, live, remedy: named(remedy) }));
      const most = Math.max(...items.map((item) => item.bytes), 1);
      section.replaceChildren(node("h2", { id: "h-workspace" }, "Workspace by layer" + which(index)),
        items.length ? sortable(`${items.length === 1 ? "One layer asks" : items.length + " layers ask"} for scratch memory; the largest takes ${size(most)} while it runs`,
          [{ name: "layer", key: "name" }, { name: "kind", key: "kind" }, { name: "workspace", key: "bytes", number: true }, { name: "bar", bar: true }, { name: "alive then", key: "live", number: true }, { name: "spared by", key: "remedy" }],
          (item) => node("tr", null, node("td", { class: "name" }, code(item.name)), node("td", null, item.kind), node("td", { class: "number" }, size(item.bytes)),
            node("td", { class: "wide-only" }, share("workspace", item.bytes, most)), node("td", { class: "number", "data-name": "alive then" }, size(item.live)), node("td", { "data-name": "spared by" }, item.remedy)),
          items, ["bytes", true])
          : node("p", { class: "muted" }, picture ? "No layer asks for scratch memory of its own." : "Not in this page: its cells have too many steps."));
    });
    return section;
  }

  function build(made) {
    [content, report, rows] = [made, made.report, made.report.rows];
    const compared = made.kind === "verify" ? [overlay.parts(made), overlay.lines(made)].filter(Boolean) : [];
    const parts = [page.verdict(), answers(), ...compared, budget(), charts.section(made, which)];
    return [...parts, ...made.sections.map(page.extra), alive(), workspace(), page.notes()];
  }
  for (const kind of ["estimate", "replay", "verify"]) page.kinds[kind] = build;
})();
