"use strict";

/* Prediction over measurement: pairs of bars, and two lines on one axis with the residual under them. */
const overlay = (() => {
  const { node, size, code, named, at } = page;
  const HEIGHT = 280, LOW = 130;
  const GROUPS = { total: "All of the process", part: "Its parts at the peak", peak: "What else was counted" };
  const WORDS = { within: "within the tolerance", over: "more than measured", under: "less than measured", "": "not measured" };
  let data = null, drawn = [], places = {}, readout = null, shown = 0, waiting = 0;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const sign = (bytes) => (bytes > 0 ? "+" : "") + size(bytes);

  function pair(bar) {
    const label = `predicted ${bar.predicted_text}, measured ${bar.measured_text}, residual ${bar.error_text} (${bar.percent_text})`;
    const box = node("div", { class: "pair", role: "img", "aria-label": label }, at(node("span", { class: "predicted" }), 0, bar.predicted));
    if (bar.high > bar.low) box.append(at(node("div", { class: "bar-range" }), bar.low, bar.high));
    if (bar.measured !== null) box.append(at(node("span", { class: "measured" }), 0, bar.measured));
    return box;
  }

  function row(bar) {
    return node("tr", null, node("th", { scope: "row" }, bar.name), node("td", { class: "bar" }, pair(bar)),
      node("td", { class: "number", "data-name": "predicted" }, bar.predicted_text), node("td", { class: "number", "data-name": "measured" }, bar.measured_text),
      node("td", { class: "number residual " + bar.state, "data-name": "residual", title: WORDS[bar.state] }, bar.error_text),
      node("td", { class: "number residual " + bar.state }, bar.percent_text));
  }

  function legend(predicted) {
    return node("ul", { class: "legend" }, node("li", null, node("span", { class: "chip predicted" }), predicted), node("li", null, node("span", { class: "chip measured" }), "measured"));
  }

  function parts(content) {
    const heads = ["part", "sizes", "predicted", "measured", "residual", "%"], body = [];
    for (const group of Object.keys(GROUPS)) {
      body.push(node("tbody", null, node("tr", { class: "group" }, node("th", { colspan: "6", scope: "rowgroup" }, GROUPS[group])), content.bars.filter((bar) => bar.group === group).map(row)));
    }
    return node("section", { id: "parts", class: "long", "aria-labelledby": "h-parts" }, node("h2", { id: "h-parts" }, "Predicted and measured"),
      node("p", { class: "muted small" }, "The residual is predicted less measured: below zero is an under-estimate."), legend("predicted; the thin line is its range"),
      node("table", { class: "budget pairs" }, node("caption", { class: "hidden" }, "Each part, predicted and measured"),
        node("thead", null, node("tr", null, heads.map((name, column) => node("th", { scope: "col", class: column > 1 ? "number" : null }, name)))), body));
  }

  function phaseOf(point) {
    return (data.phases.find((phase) => phase.start <= point && point < phase.stop) || { name: "" }).name.replaceAll("_", " ");
  }

  function show(point) {
    shown = Math.max(0, Math.min(point, data.residual.length - 1));
    const name = named(data.name[shown]);
    readout.replaceChildren(
      node("p", null, node("b", null, phaseOf(shown)), name ? " · " : "", name ? code(name) : null, shown === data.largest ? node("b", null, " · the largest residual") : null),
      node("ul", { class: "legend" }, node("li", null, node("span", { class: "chip predicted" }), "predicted ", node("b", null, size(data.predicted[shown]))),
        node("li", null, node("span", { class: "chip measured" }), "measured ", node("b", null, size(data.measured[shown]))), node("li", null, "residual ", node("b", null, sign(data.residual[shown])))));
  }

  /* ---- the lines ---- */
  const width = () => Math.max(260, places.lines.clientWidth);
  const axis = (values) => ({ stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, size: 76, font: "12px system-ui, sans-serif",
    incrs: Array.from({ length: 60 }, (_, power) => 2 ** power), space: 30, values: (_, splits) => splits.map(values) });

  function zoom(from, to) {
    const last = data.residual.length, span = Math.min(Math.max(to - from, 8), last), start = Math.min(Math.max(from, 0), last - span);
    for (const chart of drawn) chart.setScale("x", { min: start, max: start + span });
  }

  function drawPhases(chart) {
    const { ctx, bbox } = chart, ratio = uPlot.pxRatio;
    ctx.save();
    ctx.fillStyle = colour("line");
    for (const phase of data.phases) {
      const x = chart.valToPos(phase.start, "x", true);
      if (x >= bbox.left && x <= bbox.left + bbox.width) ctx.fillRect(Math.round(x), bbox.top - 16 * ratio, ratio, bbox.height + 16 * ratio);
    }
    ctx.restore();
  }

  function drawNames(chart) {
    const { ctx, bbox } = chart, ratio = uPlot.pxRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.fillStyle = colour("muted");
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    for (const phase of data.phases) {
      const left = Math.max(chart.valToPos(phase.start, "x", true), bbox.left), right = Math.min(chart.valToPos(phase.stop, "x", true), bbox.left + bbox.width);
      const text = page.clean(phase.name).replaceAll("_", " ");
      if (ctx.measureText(text).width + 10 * ratio < right - left) ctx.fillText(text, left + 5 * ratio, bbox.top - 2 * ratio);
    }
    ctx.restore();
  }

  function chart(height, series, columns, place, values, hooks, range) {
    const stepped = uPlot.paths.stepped({ align: 1 });
    return new uPlot({
      width: width(), height, legend: { show: false }, padding: [18, 12, 0, 0],
      cursor: { points: { show: false }, drag: { x: true, y: false }, sync: { key: "vramplan-overlay", scales: ["x", null] } },
      scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { range } },
      axes: [{ stroke: colour("muted"), grid: { show: false }, ticks: { stroke: colour("line"), size: 4 }, size: 28, font: "12px system-ui, sans-serif", values: (_, splits) => splits.map((each) => (Number.isInteger(each) ? each.toLocaleString("en-US") : "")) }, axis(values)],
      series: [{}, ...series.map((each) => ({ width: 1.5, points: { show: false }, paths: stepped, ...each }))],
      hooks: { draw: [drawPhases, ...hooks], setScale: [(made, key) => { if (key === "x") for (const other of drawn) if (other !== made && other.scales.x.min !== made.scales.x.min) other.setScale("x", { min: made.scales.x.min, max: made.scales.x.max }); }] },
    }, columns, place);
  }

  function draw() {
    const xs = data.residual.map((_, place) => place);
    for (const each of drawn) each.destroy();
    drawn = [];
    drawn.push(chart(HEIGHT, [{ stroke: colour("text"), width: 2 }, { stroke: colour("accent"), fill: colour("accent") + "22" }], [xs, data.measured, data.predicted], places.lines,
      (bytes) => size(bytes).replace(/\.0+ /, " ").replace(/^0 .*/, "0"), [drawNames], (_, __, most) => [0, most * 1.06 || 1]));
    drawn.push(chart(LOW, [{ stroke: colour("bad"), fill: colour("bad") + "33" }], [xs, data.residual], places.residual,
      (bytes) => (bytes ? sign(bytes).replace(/\.0+ /, " ") : "0"), [], (_, least, most) => [Math.min(least * 1.1, 0), Math.max(most * 1.1, 1)]));
    for (const each of drawn) {
      each.over.addEventListener("dblclick", () => zoom(0, data.residual.length));
      each.over.addEventListener("mousemove", (event) => show(each.posToIdx(event.clientX - each.over.getBoundingClientRect().left)));
    }
    show(data.largest);
    zoom(0, data.residual.length);
  }

  function onKey(event) {
    const { min, max } = drawn[0].scales.x, middle = shown, half = (max - min) / 2;
    const move = (point) => { show(point); if (shown < min || shown >= max) zoom(shown - half, shown + half); };
    const moves = { ArrowLeft: () => move(shown - 1), ArrowRight: () => move(shown + 1), "+": () => zoom(middle - half / 2, middle + half / 2), "=": () => zoom(middle - half / 2, middle + half / 2),
      "-": () => zoom(middle - 2 * half, middle + 2 * half), 0: () => zoom(0, data.residual.length), p: () => { move(data.largest); zoom(data.largest - 40, data.largest + 40); } };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  }

  function lines(content) {
    data = content.overlay;
    if (!data) return null;
    places = { lines: node("div"), residual: node("div") };
    readout = node("div", { class: "readout", role: "status", id: "overlay-readout" });
    return node("section", { id: "overlay", class: "long", "aria-labelledby": "h-overlay" }, node("h2", { id: "h-overlay" }, data.title),
      node("p", { class: "muted small" }, data.sentence), legend("predicted"),
      node("div", { class: "chart", tabindex: "0", role: "group", "aria-label": data.sentence, onkeydown: onKey }, places.lines,
        node("p", { class: "chart-title small" }, "Residual, predicted less measured"), places.residual), readout,
      node("p", { class: "muted small no-print" }, `Across: ${data.axis}. `,
        node("span", { class: "with-mouse" }, "Drag to zoom, double-click for all. Keys: ← → step, + − zoom, 0 all, P the largest residual."), node("span", { class: "with-finger" }, "Tap a point to read it.")));
  }

  const refit = () => drawn.forEach((made, place) => made.setSize({ width: width(), height: place ? LOW : HEIGHT }));
  const resized = new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(refit); });
  page.afterwards(() => {
    const box = document.getElementById("overlay");
    resized.disconnect();
    if (!box) { data = null; drawn = []; return; }
    draw();
    resized.observe(box);
  });
  document.addEventListener("recolour", () => { if (data) draw(); });
  document.addEventListener("refit", () => { if (data) refit(); });

  return { parts, lines };
})();
