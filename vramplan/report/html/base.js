"use strict";

/* What every page is made of: text nodes, sizes, themes, the verdict, tables. A page is drawn from one block of JSON, and may
   be drawn again from another (`page.render`). Text comes from model files: it enters the page as text nodes only, without
   characters that cannot be seen. */
const page = (() => {
  const TOP = 15;
  const kinds = {}, drawn = [];
  let content = null;

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

  /* ---- which row the page is about ---- */
  let chosen = 0, listeners = [];
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

  /* ---- header, verdict, notes ---- */
  function header() {
    const [name, ...facts] = content.headline;
    const isDark = document.documentElement.dataset.theme === "dark";
    return [
      node("div", null, node("h1", null, name), node("div", { class: "muted" }, facts.join(" · "))),
      node("div", { class: "tools" },
        node("button", { id: "theme", type: "button", onclick: toggleTheme }, isDark ? "Light colours" : "Dark colours"),
        node("button", { type: "button", onclick: () => window.print() }, "Print"),
      ),
    ];
  }

  function verdict() {
    const sign = { yes: "✓", no: "✗", doubt: "~", none: "→" }[content.state];
    const tries = content.tries.map((each) => node("li", null, node("span", { class: "word" }, "try"), each.flags ? code(each.flags) : null,
      (each.flags ? ": " : "") + each.text));
    return node("section", { class: "verdict " + content.state, "aria-label": "Verdict" },
      node("span", { class: "sign", "aria-hidden": "true" }, sign),
      node("div", null, node("span", { class: "hidden" }, content.word + ". "), node("p", { id: "sentence" }, content.sentence),
        tries.length ? node("ul", { "aria-label": "What to try" }, tries) : null));
  }

  function card(kind, title, big, ...text) {
    return node("section", { class: "is-" + kind }, node("h2", null, title), node("div", { class: "big" }, big), ...text);
  }

  /* The change that helps most, and the others that were solved; what is said where there is none. */
  function remedyCard(title, none, ...without) {
    const { remedy: best, others } = content;
    const line = (each) => node("div", null, each.flags ? code(each.flags) : null, (each.flags ? ": " : "") + each.text);
    return card("remedy", title, best ? (best.flags ? code(best.flags) : best.what) : none, node("p", null, best ? best.text : without),
      others.length ? node("div", { class: "muted small" }, "Also: ", others.map(line)) : null);
  }

  function notes() {
    return node("section", { class: "notes", "aria-labelledby": "h-notes" }, node("h2", { id: "h-notes" }, "How sure this is"),
      node("ul", null, content.footnotes.map((line) => node("li", null, line))));
  }

  function extra(section) {
    return node("section", null, node("h2", null, section.title), section.table ? grid(section.table.headers, section.table.rows, new Set(section.table.words), section.title) : null, section.sentence ? node("p", null, section.sentence) : null);
  }

  function at(box, left, right) {
    box.style.left = 100 * left + "%";
    if (right !== undefined) box.style.width = 100 * (right - left) + "%";
    return box;
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
    return node("div", null, node("div", { class: "scroll" }, node("table", { class: "stacked sorted" }, node("caption", null, caption), node("thead", null, node("tr", null, heads)), body)), more);
  }

  function share(kind, bytes, most) {
    const fill = node("span", { class: "c-" + kind });
    fill.style.width = (most ? (100 * bytes) / most : 0) + "%";
    return node("div", { class: "share", "aria-hidden": "true" }, fill);
  }

  /* Draw a part that is about another content than the page, such as the streams beside the memory. */
  function about(made, draw) {
    const kept = [content, chosen, listeners];
    [content, chosen, listeners] = [made, made.focus, []];
    try { return draw(made); } finally { if (kept[0]) [content, chosen, listeners] = kept; }
  }

  /* ---- drawing, again where the numbers change ---- */
  function render(made) {
    content = made;
    chosen = made.focus;
    listeners = [];
    document.getElementById("top").replaceChildren(...header());
    document.getElementById("main").replaceChildren(...kinds[made.kind](made));
    document.getElementById("foot").replaceChildren("Written by vramplan. This file loads nothing and sends nothing; the numbers are those of --json.", typeof uPlot === "undefined" ? "" : " Charts: uPlot, MIT licence.");
    for (const each of drawn) each();
  }

  return { kinds, node, size, percent, chip, code, named, clean, choose, onChoice, verdict, card, remedyCard, notes, extra, grid, sortable, share, at, about, render,
    afterwards: (action) => drawn.push(action) };
})();
