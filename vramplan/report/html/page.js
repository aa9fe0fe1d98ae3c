"use strict";

/* The parts of the page that are text: verdict, cards, budget, tables. Everything is drawn from the block of JSON.
   Text comes from model files: it enters the page as text nodes only, without characters that cannot be seen. */
const page = (() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const report = content.report;
  const rows = report.rows;
  const ROLES = ["weight", "input", "activation", "output", "workspace"];
  const PARTS = ["weights", "inputs", "activations", "outputs", "workspace", "allocator_slack", "context"];
  const MEANINGS = {
    weights: "weights", inputs: "inputs", activations: "activations", outputs: "outputs", workspace: "workspace",
    allocator_slack: "allocator slack", context: "CUDA context",
  };
  const TOP = 15;
  let chosen = content.focus;
  const listeners = [];

  const clean = (text) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\uFFFD");

  function node(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child === null || child === undefined || child === false) continue;
      made.append(child instanceof Node ? child : document.createTextNode(clean(child)));
    }
    return made;
  }

  function size(bytes) {
    const [kib, mib, gib] = [2 ** 10, 2 ** 20, 2 ** 30];
    const magnitude = Math.abs(bytes);
    const grouped = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
    if (magnitude >= gib) return (bytes / gib).toLocaleString("en-US", grouped) + " GiB";
    if (magnitude >= Math.floor(mib / 20) || magnitude === 0) return (bytes / mib).toFixed(1) + " MiB";
    return magnitude >= kib ? (bytes / kib).toFixed(1) + " KiB" : bytes + " B";
  }

  const percent = (part, whole) => (whole ? Math.round((100 * part) / whole) + " %" : "");
  const chip = (kind) => node("span", { class: "chip c-" + kind, "aria-hidden": "true" });
  const code = (text) => node("code", null, text);
  const named = (text) => content.strings[text];

  function choose(index) {
    chosen = index;
    for (const each of listeners) each(index);
  }
  function onChoice(listener) {
    listeners.push(listener);
    listener(chosen);
  }

  /* ---- theme ---- */
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let asked = null;
  let printing = false;
  function applyTheme() {
    const theme = printing ? "light" : asked || (dark.matches ? "dark" : "light");
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = theme === "dark" ? "Light colours" : "Dark colours";
    document.dispatchEvent(new Event("recolour"));
  }
  function toggleTheme() {
    asked = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
  }
  dark.addEventListener("change", applyTheme);
  for (const [name, state] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(name, () => { printing = state; applyTheme(); document.dispatchEvent(new Event("refit")); });
  }
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";

  /* ---- header and verdict ---- */
  function header() {
    const [name, ...facts] = content.headline;
    document.getElementById("top").append(
      node("div", null, node("h1", null, name), node("div", { class: "muted" }, facts.join(" · "))),
      node("div", { class: "tools" },
        node("button", { id: "theme", type: "button", onclick: toggleTheme }, dark.matches ? "Light colours" : "Dark colours"),
        node("button", { type: "button", onclick: () => window.print() }, "Print"),
      ),
    );
  }

  function verdict() {
    const said = report.verdict;
    const sign = { yes: "✓", no: "✗", doubt: "~", none: "→" }[content.state];
    const tries = said.try.map((each) => node("li", null, node("span", { class: "word" }, "try"), code(each.flags),
      each.text.startsWith(each.flags) ? each.text.slice(each.flags.length) : ": " + each.text));
    return node("section", { class: "verdict " + content.state, "aria-label": "Verdict" },
      node("span", { class: "sign", "aria-hidden": "true" }, sign),
      node("div", null, node("span", { class: "hidden" }, content.word + ". "), node("p", { id: "sentence" }, said.sentence),
        tries.length ? node("ul", { "aria-label": "What to try" }, tries) : null));
  }

  /* ---- the three answers ---- */
  function answers() {
    const box = node("div", { class: "cards" });
    onChoice((index) => box.replaceChildren(peakCard(index), causeCard(index), remedyCard()));
    return box;
  }
  const which = (index) => (rows.length > 1 ? " · " + content.cells[index].name : "");

  function peakCard(index) {
    const row = rows[index], cell = content.cells[index];
    return node("section", { class: "is-peak" }, node("h2", null, "The peak" + which(index)),
      node("div", { class: "big", id: "peak-total" }, cell.total + " " + cell.unit),
      node("p", null, "what the process takes", cell.range ? `, ${cell.range} ${cell.unit} with every doubt` : "", "; reached while ",
        code(row.peak.op), ` runs, op ${row.peak.index} of ${cell.last_op_index}.`),
      content.pictures[index] && node("a", { href: "#timeline", class: "no-print" }, "See it on the timeline"));
  }

  function causeCard(index) {
    const row = rows[index], cell = content.cells[index];
    const parts = PARTS.map((name) => [name, row.budget[name + "_bytes"]]).sort((a, b) => b[1] - a[1]);
    const [part, bytes] = parts[0], own = parts.find(([name]) => name !== "context" && name !== "allocator_slack")[0];
    const causes = cell.causes.map((place) => row.peak.live[place]);
    const alive = row.peak.live.reduce((sum, item) => sum + item.size_bytes, 0);
    const taken = causes.reduce((sum, item) => sum + item.size_bytes, 0);
    return node("section", { class: "is-cause" }, node("h2", null, "What takes it" + which(index)),
      node("div", { class: "big" }, chip(part), `${MEANINGS[part]} `, node("span", { class: "whole" }, `${cell.parts[part]} ${cell.unit}`)),
      node("p", null, `${percent(bytes, row.total_bytes)} of the total`, own === part ? "." : `; the model's own largest part: ${MEANINGS[own]}, ${cell.parts[own]} ${cell.unit}.`,
        causes.length ? ` The largest buffers then, ${percent(taken, alive)} of all that is alive:` : ""),
      node("ol", null, causes.map((item) => node("li", null, code(item.name), `, ${size(item.size_bytes)}`,
        node("span", { class: "muted" }, item.until ? " until " : " to the end", item.until ? code(item.until) : null)))));
  }

  function remedyCard() {
    if (content.kind === "verify") {
      return node("section", { class: "is-remedy" }, node("h2", null, "Predicted less measured"), node("div", { class: "big" }, content.residual),
        node("p", null, "Below zero is an under-estimate. ", content.report.rows.length > 1 ? "Choose “measured” below to see the recorded run in the same pictures." : "The run was not recorded, so only its counters are known."));
    }
    const tries = report.verdict.try, best = content.remedy === null ? null : tries[content.remedy];
    const why = content.kind === "replay" ? "A recorded run cannot be changed: estimate the model to see what a change would do."
      : tries.length ? "No change that was tried saves memory; there is room for more:" : "No change that was tried saves memory.";
    const others = tries.filter((each) => each !== best);
    return node("section", { class: "is-remedy" }, node("h2", null, "What helps most" + which(content.focus)),
      node("div", { class: "big" }, best ? code(best.flags) : content.kind === "replay" ? "—" : "nothing tried"),
      node("p", null, best ? best.text.slice(best.flags.length).replace(/^: /, "") + ", estimated again with it." : why),
      others.length ? node("div", { class: "muted" }, best ? "Also solved: " : "", others.map((each) => node("div", null, code(each.flags),
        each.text.slice(each.flags.length)))) : null);
  }

  /* ---- budget ---- */
  function budget() {
    const most = Math.max(...rows.map((row) => row.total_high_bytes), 1);
    const limit = report.verdict.limit_bytes;
    const inside = limit !== null && limit <= 1.7 * most;
    const full = inside ? Math.max(most, limit) * 1.01 : most * 1.01;
    const body = node("tbody", null, rows.map((row, index) => budgetRow(row, index, full, inside ? limit : null)));
    const limitText = limit === null ? "" : inside ? ` Dashed line: the limit, ${size(limit)}.` : ` The limit, ${size(limit)}, lies far to the right.`;
    const section = node("section", { "aria-labelledby": "h-budget", id: "budget" }, node("h2", { id: "h-budget" }, "The budget, part by part"),
      node("p", { class: "muted small" }, "What is held at the peak; the parts add up to what nvidia-smi shows for the process. The thin line is the range.", limitText,
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

  function budgetRow(row, index, full, limit) {
    const cell = content.cells[index];
    const label = PARTS.map((part) => `${MEANINGS[part]} ${cell.parts[part]}`).join(", ") + " " + cell.unit;
    const stack = node("div", { class: "bar-stack" });
    for (const part of PARTS) {
      const bytes = row.budget[part + "_bytes"];
      const piece = node("span", { class: "c-" + part, title: `${MEANINGS[part]}: ${size(bytes)}, ${row.evidence[part]}` });
      piece.style.width = (100 * bytes) / full + "%";
      if (bytes) stack.append(piece);
    }
    const box = node("div", { class: "bar-box", role: "img", "aria-label": label }, stack);
    if (cell.range) box.append(at(node("div", { class: "bar-range" }), row.total_low_bytes / full, row.total_high_bytes / full));
    if (limit !== null) box.append(at(node("div", { class: "bar-limit" }), limit / full));
    const name = (rows.length > 1 ? [cell.name, ...(content.cells.filter((each) => each.name === cell.name).length > 1 ? [row.runtime] : [])].join(" · ") : cell.name);
    return node("tr", null,
      node("th", { scope: "row" }, rows.length > 1 ? node("button", { type: "button", "aria-pressed": "false", onclick: () => choose(index) }, name) : name),
      node("td", { class: "bar" }, box),
      node("td", { class: "number" }, node("b", null, `${cell.total} ${cell.unit}`), cell.mark ? " " + cell.mark : ""),
      node("td", { class: "number muted" }, cell.range));
  }
  function at(box, left, right) {
    box.style.left = 100 * left + "%";
    if (right !== undefined) box.style.width = 100 * (right - left) + "%";
    return box;
  }

  function numbers() {
    const head = ["cell", ...PARTS.map((part) => MEANINGS[part]), "total", "bytes"];
    const lines = rows.map((row, index) => [content.cells[index].name, ...PARTS.map((part) => content.cells[index].parts[part]),
      content.cells[index].total + " " + content.cells[index].unit, row.total_bytes.toLocaleString("en-US")]);
    return node("details", null, node("summary", null, "The numbers"), grid(head, lines, new Set(["cell"]), "Every part of every cell"));
  }

  function grid(head, lines, words, caption) {
    const side = (name) => (words.has(name) ? null : "number");
    return node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, node("table", null, node("caption", { class: "hidden" }, caption),
      node("thead", null, node("tr", null, head.map((name) => node("th", { scope: "col", class: side(name) }, name)))),
      node("tbody", null, lines.map((line) => node("tr", null, line.map((text, column) => node("td", { class: side(head[column]) }, text)))))));
  }

  /* ---- tables that sort ---- */
  function sortable(caption, columns, draw, items, first) {
    let [key, down] = first, all = false;
    const body = node("tbody"), more = node("button", { type: "button", class: "no-print", onclick: () => { all = !all; fill(); } });
    const heads = columns.map((column) => node("th", { scope: "col", class: column.bar ? "wide-only" : column.number ? "number" : null },
      column.bar ? node("span", { class: "hidden" }, column.name) : column.key ? node("button", { type: "button", onclick: () => { down = key === column.key ? !down : Boolean(column.number); key = column.key; fill(); } }, column.name) : column.name));
    function fill() {
      const sorted = [...items].sort((a, b) => {
        const [left, right] = [a[key], b[key]];
        return (down ? -1 : 1) * (typeof left === "number" ? left - right : String(left).localeCompare(String(right)));
      });
      columns.forEach((column, place) => heads[place].setAttribute("aria-sort", column.key !== key ? "none" : down ? "descending" : "ascending"));
      heads.forEach((head, place) => { const button = head.querySelector("button"); if (button) button.textContent = columns[place].name + (columns[place].key === key ? (down ? " ▾" : " ▴") : ""); });
      body.replaceChildren(...sorted.slice(0, all ? undefined : TOP).map(draw));
      more.hidden = items.length <= TOP;
      more.textContent = all ? "Show fewer" : `Show all ${items.length}`;
    }
    fill();
    return node("div", null, node("div", { class: "scroll" }, node("table", null, node("caption", null, caption), node("thead", null, node("tr", null, heads)), body)), more);
  }

  function share(kind, bytes, most) {
    const fill = node("span", { class: "c-" + kind });
    fill.style.width = (most ? (100 * bytes) / most : 0) + "%";
    return node("div", { class: "share", "aria-hidden": "true" }, fill);
  }

  function alive() {
    const box = node("div");
    onChoice((index) => {
      const live = rows[index].peak.live, weights = live.filter((item) => item.role === "weight");
      const whole = live.reduce((sum, item) => sum + item.size_bytes, 0);
      const packed = live.filter((item) => item.role !== "weight");
      if (weights.length) packed.push({ name: `${weights.length} weights`, role: "weight", size_bytes: weights.reduce((sum, item) => sum + item.size_bytes, 0), until: "" });
      let open = false;
      const place = node("div");
      const toggle = node("button", { type: "button", class: "no-print", "aria-pressed": "false", onclick: () => { open = !open; fill(); } }, "Each weight on its own");
      function fill() {
        toggle.setAttribute("aria-pressed", String(open));
        const items = open ? live : packed, most = Math.max(...items.map((item) => item.size_bytes), 1);
        place.replaceChildren(sortable(`${live.length} buffers, ${size(whole)} as requested`,
          [{ name: "buffer", key: "name" }, { name: "role", key: "role" }, { name: "size", key: "size_bytes", number: true }, { name: "bar", bar: true }, { name: "of all", number: true }, { name: "until", key: "until" }],
          (item) => node("tr", null, node("td", { class: "name" }, code(item.name)), node("td", { class: "whole" }, chip(item.role), item.role), node("td", { class: "number" }, size(item.size_bytes)),
            node("td", { class: "wide-only" }, share(item.role, item.size_bytes, most)), node("td", { class: "number" }, percent(item.size_bytes, whole)), node("td", { class: "name" }, item.until ? code(item.until) : "the end")),
          items, ["size_bytes", true]));
      }
      fill();
      box.replaceChildren(node("h2", { id: "h-alive" }, "Who is alive at the peak" + which(index)),
        node("p", { class: "muted small" }, content.cells[index].peak_sentence), weights.length > 1 ? toggle : "", place);
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
            node("td", { class: "wide-only" }, share("workspace", item.bytes, most)), node("td", { class: "number" }, size(item.live)), node("td", null, item.remedy)),
          items, ["bytes", true])
          : node("p", { class: "muted" }, picture ? "No layer asks for scratch memory of its own." : "Not in this page: its cells have too many steps."));
    });
    return section;
  }

  function extra(section) {
    return node("section", null, node("h2", null, section.title), section.table ? grid(section.table.headers, section.table.rows, new Set(section.table.words), section.title) : null, section.sentence ? node("p", null, section.sentence) : null);
  }

  function notes() {
    return node("section", { class: "notes", "aria-labelledby": "h-notes" }, node("h2", { id: "h-notes" }, "How sure this is"),
      node("ul", null, content.footnotes.map((line) => node("li", null, line))));
  }

  function build() {
    header();
    document.getElementById("main").append(verdict(), answers(), budget(), charts.section(), ...content.sections.map(extra), alive(), workspace(), notes());
    document.getElementById("foot").append("Written by vramplan. This file loads nothing and sends nothing; the numbers are those of --json. Charts: uPlot, MIT licence.");
  }

  return { content, rows, ROLES, node, size, chip, code, named, clean, onChoice, which, build };
})();
