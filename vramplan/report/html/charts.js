"use strict";

/* The timeline and the address map: two uPlot charts over the same steps, zoomed and read together. */
const charts = (() => {
  const { node, size, chip, code, named } = page;
  const ROLES = ["weight", "input", "activation", "output", "workspace"];
  const FEWEST_STEPS = 8;
  const LABEL_MIN_PX = 70;
  const OPENED_ALPHA = 0.3;
  const tip = node("div", { class: "tip" });
  const places = { timeline: node("div"), map: node("div") };
  const readout = node("div", { class: "readout", role: "status", id: "readout", "aria-live": "off" });
  const mark = node("div", { class: "mark" });
  let data = null, drawn = [], isSyncing = false, waiting = 0, placeRead = -1;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const number = (value) => value.toLocaleString("en-US");

  /* ---- the numbers ---- */
  const summed = (differences) => { let sum = 0; return differences.map((each) => (sum += each)); };

  function read(picture) {
    const line = picture.timeline, roles = ROLES.map((role) => summed(line.roles[role]));
    const tops = [];
    roles.forEach((column, level) => tops.push(level ? column.map((bytes, at) => bytes + tops[level - 1][at]) : column));
    return { picture, steps: summed(line.step), ops: summed(line.op), events: line.event, roles, tops,
      reserved: line.reserved && summed(line.reserved) };
  }

  function nearest(step) {
    let low = 0, high = data.steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (data.steps[middle] <= step) low = middle; else high = middle - 1;
    }
    return low;
  }

  const phaseOf = (step) => (data.picture.phases.find((phase) => phase.start <= step && step < phase.stop) || { name: "" }).name;
  const opName = (at) => named(data.picture.ops[data.ops[at]]);
  const bufferName = (buffer) => named(data.picture.buffers.name[buffer]);

  /* ---- what is said about a step and about a buffer ---- */
  function saidOfStep(at) {
    const buffer = Math.abs(data.events[at]) - 1, buffers = data.picture.buffers, path = named(buffers.path[buffer]);
    const live = data.tops[ROLES.length - 1][at], reserved = data.reserved && data.reserved[at];
    return [
      node("p", null, node("b", null, `Step ${number(data.steps[at])}`), ` · ${phaseOf(data.steps[at])} · `, code(opName(at)), data.steps[at] === data.picture.peak_step ? node("b", null, " · the peak") : null),
      node("p", null, data.events[at] > 0 ? "holds " : "lets go ", chip(ROLES[buffers.role[buffer]]), code(bufferName(buffer)), `, ${size(buffers.size_bytes[buffer])}`,
        path && !bufferName(buffer).startsWith(path) ? node("span", { class: "muted" }, " in ", code(path)) : null),
      node("ul", { class: "legend" }, ROLES.map((role, level) => node("li", null, chip(role), role + " ", node("b", null, size(data.roles[level][at])))),
        node("li", null, "alive ", node("b", null, size(live))),
        reserved === null ? null : node("li", null, chip("slack"), "held by the allocator ", node("b", null, size(reserved)), `, ${size(reserved - live)} of it idle`)),
    ];
  }

  function saidOfPlace(place) {
    const buffers = data.picture.buffers, map = data.picture.map, buffer = map.buffer[place], path = named(buffers.path[buffer]);
    const last = map.stop[place] >= data.picture.steps;
    return [
      node("p", null, chip(ROLES[buffers.role[buffer]]), node("b", null, bufferName(buffer))),
      path && path !== bufferName(buffer) ? node("p", { class: "muted" }, "in ", code(path)) : null,
      node("p", null, `${size(buffers.size_bytes[buffer])} asked for`, map.size_bytes[place] !== buffers.size_bytes[buffer] ? `, ${size(map.size_bytes[place])} taken` : "",
        ` at ${size(map.address[place])}`),
      node("p", null, `held from step ${number(map.start[place])} `, last ? "to the end" : `until ${number(map.stop[place])}`),
    ].filter(Boolean);
  }

  function saidOfIdle(step, address) {
    const region = data.picture.map.regions.find((each) => each.start <= step && step < each.stop && each.address <= address && address < each.address + each.size_bytes);
    return region ? [node("p", null, chip("slack"), `idle, in ${region.label} of ${size(region.size_bytes)}`)] : null;
  }

  const show = (at) => readout.replaceChildren(...saidOfStep(at));

  function showTip(event, parts) {
    if (!parts) { tip.style.display = "none"; return; }
    tip.replaceChildren(...parts);
    tip.style.display = "block";
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, event.clientX + 18 + box.width > window.innerWidth ? event.clientX - box.width - 18 : event.clientX + 18) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 18, window.innerHeight - box.height - 8)) + "px";
  }

  /* ---- zoom and pan ---- */
  function zoomTo(from, to) {
    const last = data.picture.steps;
    const width = Math.min(Math.max(to - from, Math.min(FEWEST_STEPS, last)), last);
    const start = Math.min(Math.max(from, 0), last - width);
    drawn[0].setScale("x", { min: start, max: start + width });
  }
  function zoomBy(factor, around) {
    const { min, max } = drawn[0].scales.x;
    const middle = around === undefined ? (min + max) / 2 : around;
    zoomTo(middle - (middle - min) * factor, middle + (max - middle) * factor);
  }
  function panBy(share) {
    const { min, max } = drawn[0].scales.x;
    zoomTo(min + share * (max - min), max + share * (max - min));
  }
  function whole() {
    zoomTo(0, data.picture.steps);
    if (drawn[1]) drawn[1].setScale("y", { min: 0, max: data.picture.map.top_bytes });
  }
  function toPeak() {
    const width = Math.max(40, data.picture.steps / 25);
    zoomTo(data.picture.peak_step - width / 2, data.picture.peak_step + width / 2);
    moveTo(nearest(data.picture.peak_step));
  }
  function moveTo(at) {
    const chart = drawn[0], { min, max } = chart.scales.x, step = data.steps[at];
    if (step < min || step > max) zoomTo(step - (max - min) / 2, step + (max - min) / 2);
    readout.setAttribute("aria-live", "polite");
    // uPlot takes a new scale over in a microtask; only behind it positions are right.
    queueMicrotask(() => {
      chart.setCursor({ left: chart.valToPos(step + 0.5, "x"), top: 1 });
      show(at);
    });
  }

  function onKey(event) {
    const at = drawn[0].cursor.idx ?? nearest(data.picture.peak_step);
    const moves = {
      ArrowLeft: () => (event.shiftKey ? panBy(-0.2) : moveTo(Math.max(at - 1, 0))),
      ArrowRight: () => (event.shiftKey ? panBy(0.2) : moveTo(Math.min(at + 1, data.steps.length - 1))),
      "+": () => zoomBy(0.5, data.steps[at]), "=": () => zoomBy(0.5, data.steps[at]), "-": () => zoomBy(2, data.steps[at]),
      0: whole, p: toPeak,
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  }

  function onWheel(chart) {
    return (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
      event.preventDefault();
      if (event.shiftKey) panBy(Math.sign(event.deltaY || event.deltaX) * 0.15);
      else zoomBy(event.deltaY < 0 ? 0.8 : 1.25, chart.posToVal(event.clientX - chart.over.getBoundingClientRect().left, "x"));
    };
  }

  /* ---- drawing ---- */
  const bytesAxis = () => ({
    stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, size: 76, font: "12px system-ui, sans-serif",
    incrs: Array.from({ length: 60 }, (_, power) => 2 ** power), space: 34,
    values: (_, splits) => splits.map((bytes) => size(bytes).replace(/\.0+ /, " ").replace(/^0 .*/, "0")),
  });
  const stepsAxis = (label) => ({
    stroke: colour("muted"), grid: { show: false }, ticks: { stroke: colour("line"), size: 4 }, size: label ? 46 : 30, font: "12px system-ui, sans-serif",
    ...(label ? { label, labelSize: 18, labelGap: 0, labelFont: "12px system-ui, sans-serif" } : {}), values: (_, splits) => splits.map((step) => (Number.isInteger(step) ? number(step) : "")),
  });

  function drawPhases(chart) {
    const { ctx, bbox } = chart, ratio = uPlot.pxRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    for (const phase of data.picture.phases) {
      const left = Math.max(chart.valToPos(phase.start, "x", true), bbox.left), right = Math.min(chart.valToPos(phase.stop, "x", true), bbox.left + bbox.width);
      if (right <= left) continue;
      ctx.fillStyle = colour("line");
      ctx.fillRect(Math.round(left), bbox.top - 18 * ratio, ratio, bbox.height + 18 * ratio);
      const text = page.clean(phase.name).replaceAll("_", " ");
      ctx.fillStyle = colour("muted");
      if (ctx.measureText(text).width + 10 * ratio < right - left) ctx.fillText(text, left + 5 * ratio, bbox.top - 3 * ratio);
    }
    ctx.restore();
  }

  function drawPeak(chart, text, top) {
    const { ctx, bbox } = chart, ratio = uPlot.pxRatio, { min, max } = chart.scales.x, step = data.picture.peak_step;
    if (step < min || step > max) return;
    const x = chart.valToPos(step, "x", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("peak");
    ctx.lineWidth = 1.5 * ratio;
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (text) {
      const y = chart.valToPos(top, "y", true);
      ctx.beginPath();
      ctx.arc(x, y, 4.5 * ratio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.font = `600 ${13 * ratio}px system-ui, sans-serif`;
      const width = ctx.measureText(text).width, isRight = x + width + 16 * ratio > bbox.left + bbox.width;
      const left = Math.max(isRight ? x - width - 14 * ratio : x + 8 * ratio, bbox.left), above = Math.max(y - 26 * ratio, bbox.top + 3 * ratio);
      ctx.globalAlpha = 0.92;
      ctx.fillStyle = colour("card");
      ctx.fillRect(left, above, width + 8 * ratio, 19 * ratio);
      ctx.globalAlpha = 1;
      ctx.fillStyle = colour("peak");
      ctx.textBaseline = "middle";
      ctx.textAlign = "left";
      ctx.fillText(text, left + 4 * ratio, above + 10 * ratio);
    }
    ctx.restore();
  }

  function drawMap(chart) {
    const { ctx, bbox } = chart, ratio = uPlot.pxRatio, map = data.picture.map, buffers = data.picture.buffers;
    const x0 = chart.valToPos(0, "x", true), xs = chart.valToPos(1, "x", true) - x0, y0 = chart.valToPos(0, "y", true), ys = (chart.valToPos(map.top_bytes, "y", true) - y0) / map.top_bytes;
    const right = bbox.left + bbox.width, bottom = bbox.top + bbox.height;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const fill = (start, stop, address, bytes) => {
      const left = Math.max(x0 + start * xs, bbox.left - 2), end = Math.min(x0 + stop * xs, right + 2), low = Math.min(y0 + address * ys, bottom + 2), high = Math.max(y0 + (address + bytes) * ys, bbox.top - 2);
      if (end < bbox.left || left > right || high > bottom || low < bbox.top) return null;
      const box = [left, high, Math.max(end - left, ratio * 0.7), Math.max(low - high, ratio * 0.5)];
      ctx.fillRect(...box);
      return box;
    };
    ctx.strokeStyle = colour("card");
    ctx.lineWidth = ratio;
    ctx.fillStyle = colour("slack");
    for (const region of map.regions) {
      const box = fill(region.start, region.stop, region.address, region.size_bytes);
      if (box && box[3] > 3 * ratio) ctx.strokeRect(...box);
    }
    const opened = new Set(map.opened), colours = ROLES.map(colour), ink = colour("on-role");
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    map.buffer.forEach((buffer, place) => {
      ctx.fillStyle = colours[buffers.role[buffer]];
      ctx.globalAlpha = opened.has(place) ? OPENED_ALPHA : 1;
      const box = fill(map.start[place], map.stop[place], map.address[place], map.size_bytes[place]);
      if (!box || box[2] < 3 * ratio || box[3] < 3 * ratio) return;
      ctx.strokeRect(...box);
      if (!opened.has(place) && box[2] > LABEL_MIN_PX * ratio && box[3] > 15 * ratio) label(ctx, bufferName(buffer), box, ratio, ink);
    });
    ctx.restore();
    drawPhases(chart);
    drawPeak(chart);
  }

  function label(ctx, name, [left, top, width, height], ratio, ink) {
    const room = width - 10 * ratio;
    let text = page.clean(name);
    const letters = Math.floor(room / (6 * ratio));
    if (text.length > letters) text = letters > 8 ? "…" + text.slice(1 - letters) : "";
    if (!text || ctx.measureText(text).width > room) return;
    ctx.fillStyle = ink;
    ctx.fillText(text, left + 5 * ratio, top + height / 2);
  }

  function foundPlace(step, address) {
    const map = data.picture.map;
    return map.buffer.findLastIndex((_, place) => map.start[place] <= step && step < map.stop[place]
      && map.address[place] <= address && address < map.address[place] + map.size_bytes[place]);
  }

  /* ---- the two charts ---- */
  function common(height, cursor) {
    return {
      width: width(), height, legend: { show: false }, padding: [22, 12, 0, 0], cursor: { points: { show: false }, dataIdx: (_, __, ___, step) => nearest(step), sync: { key: "vramplan", scales: ["x", null] }, ...cursor },
      scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: {} },
    };
  }
  const width = () => Math.max(260, places.timeline.clientWidth);
  const tall = () => (window.innerWidth < 640 ? 260 : 340);

  function syncScale(chart, key) {
    if (key !== "x" || isSyncing) return;
    isSyncing = true;
    for (const other of drawn) if (other !== chart) other.setScale("x", { min: chart.scales.x.min, max: chart.scales.x.max });
    isSyncing = false;
  }

  function timelineChart() {
    const stepped = uPlot.paths.stepped({ align: 1 }), last = data.steps.length - 1, peak = nearest(data.picture.peak_step);
    const highest = (data.reserved || data.tops[ROLES.length - 1]).reduce((most, bytes) => Math.max(most, bytes), 1);
    const columns = [data.steps], series = [{}];
    if (data.reserved) {
      columns.push(data.reserved);
      series.push({ stroke: colour("text"), width: 1.5, fill: colour("slack"), paths: stepped, points: { show: false } });
    }
    for (let level = ROLES.length - 1; level >= 0; level--) {
      columns.push(data.tops[level]);
      series.push({ stroke: colour(ROLES[level]), width: 1, fill: colour(ROLES[level]), paths: stepped, points: { show: false } });
    }
    const top = data.tops[ROLES.length - 1][peak];
    const options = common(tall(), { drag: { x: true, y: false } });
    options.scales.y.range = () => [0, highest * 1.08];
    return new uPlot({ ...options, series, axes: [stepsAxis(""), bytesAxis()], hooks: {
      draw: [drawPhases, (chart) => drawPeak(chart, `peak: ${size(top)} alive`, top)],
      setScale: [syncScale], setCursor: [(chart) => { const at = chart.cursor.idx; if (at !== null && at !== undefined && at <= last) show(at); }],
    } }, columns, places.timeline);
  }

  function mapChart() {
    const top = data.picture.map.top_bytes;
    const options = common(tall() + 60, { drag: { x: true, y: true, uni: 30 } });
    options.scales.y = { auto: false, range: (_, min, max) => [min ?? 0, max ?? top] };
    return new uPlot({ ...options, series: [{}, { paths: () => null, points: { show: false } }], axes: [stepsAxis("steps: each holds or lets go one buffer"), bytesAxis()], hooks: {
      draw: [drawMap], setScale: [syncScale],
    } }, [[0, data.picture.steps], [0, top]], places.map);
  }

  function listen(chart, said) {
    chart.over.addEventListener("wheel", onWheel(chart), { passive: false });
    chart.over.addEventListener("mousemove", (event) => { readout.setAttribute("aria-live", "off"); showTip(event, said(chart)); });
    chart.over.addEventListener("mouseleave", () => { showTip(null, null); mark.style.display = "none"; show(nearest(data.picture.peak_step)); });
    chart.over.addEventListener("dblclick", whole);
  }

  const hoveredStep = (chart) => saidOfStep(nearest(chart.posToVal(chart.cursor.left, "x")));

  function hoveredPlace(chart) {
    const step = Math.floor(chart.posToVal(chart.cursor.left, "x")), address = chart.posToVal(chart.cursor.top, "y"), place = foundPlace(step, address);
    markPlace(chart, place);
    return place < 0 ? saidOfIdle(step, address) : saidOfPlace(place);
  }

  /* A frame around the buffer that is read. */
  function markPlace(chart, place) {
    mark.style.display = place < 0 ? "none" : "block";
    if (place < 0) return;
    const map = data.picture.map, { min, max } = chart.scales.x, y = chart.scales.y;
    const [left, right] = [Math.max(map.start[place], min), Math.min(map.stop[place], max)].map((step) => chart.valToPos(step, "x"));
    const [low, high] = [Math.max(map.address[place], y.min), Math.min(map.address[place] + map.size_bytes[place], y.max)].map((bytes) => chart.valToPos(bytes, "y"));
    Object.assign(mark.style, { left: left + "px", top: high + "px", width: Math.max(right - left, 0) + "px", height: low - high + "px" });
  }

  /* Up and down: the buffers that are held at this step, by address. */
  function onMapKey(event) {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) { onKey(event); return; }
    event.preventDefault();
    const map = data.picture.map, step = data.steps[drawn[0].cursor.idx ?? nearest(data.picture.peak_step)];
    const held = map.buffer.map((_, place) => place).filter((place) => map.start[place] <= step && step < map.stop[place]);
    if (!held.length) return;
    held.sort((one, other) => map.address[one] - map.address[other]);
    const now = held.indexOf(placeRead);
    placeRead = held[now < 0 ? (direction > 0 ? 0 : held.length - 1) : Math.min(Math.max(now + direction, 0), held.length - 1)];
    readout.setAttribute("aria-live", "polite");
    readout.replaceChildren(...saidOfPlace(placeRead));
    markPlace(drawn[1], placeRead);
  }

  function draw() {
    const kept = drawn[0] && drawn[0].data0 === data ? { ...drawn[0].scales.x } : null;
    for (const chart of drawn) chart.destroy();
    drawn = data.picture.map ? [timelineChart(), mapChart()] : [timelineChart()];
    listen(drawn[0], hoveredStep);
    if (drawn[1]) {
      listen(drawn[1], hoveredPlace);
      drawn[1].over.append(mark);
    }
    drawn[0].data0 = data;
    show(nearest(data.picture.peak_step));
    if (kept) zoomTo(kept.min, kept.max); else whole();
  }

  function refit() {
    if (!data) return;
    drawn.forEach((chart, place) => chart.setSize({ width: width(), height: tall() + 60 * place }));
  }

  /* ---- the section ---- */
  function summary() {
    const peak = nearest(data.picture.peak_step), reserved = data.reserved ? ` Its allocator holds ${size(data.reserved[data.reserved.length - 1])} in the end.` : "";
    return `Memory over ${number(data.picture.steps)} steps. The peak is at step ${number(data.picture.peak_step)}, ${opName(peak)}: ${size(data.tops[ROLES.length - 1][peak])} alive.${reserved}`;
  }

  function tools() {
    const button = (text, what, action) => node("button", { type: "button", title: what, "aria-label": what, onclick: action }, text);
    const phases = data.picture.phases.filter((phase) => phase.stop > phase.start).slice(0, 8);
    return node("div", { class: "tools" },
      button("Peak", "Go to the peak", toPeak), button("Whole run", "Show the whole run", whole),
      phases.length > 1 ? phases.map((phase) => button(phase.name.replaceAll("_", " "), "Show phase " + phase.name, () => zoomTo(phase.start, phase.stop))) : null,
      button("+", "Zoom in", () => zoomBy(0.5)), button("−", "Zoom out", () => zoomBy(2)), button("◀", "Earlier", () => panBy(-0.5)), button("▶", "Later", () => panBy(0.5)));
  }

  function section(content, which) {
    const box = node("section", { id: "timeline", class: "long", "aria-labelledby": "h-timeline" });
    page.onChoice((chosen) => {
      const picture = content.pictures[chosen], title = node("h2", { id: "h-timeline" }, "Memory over time" + which(chosen));
      data = picture && picture.steps ? read(picture) : null;
      if (!data) {
        box.replaceChildren(title, node("p", { class: "muted" }, picture ? "Nothing is held at any step." : "Not in this page: all cells together have too many steps. Estimate this cell alone to see it."));
        return;
      }
      fill(box, title);
      if (box.isConnected) draw();
    });
    return box;
  }

  function fill(box, title) {
    const map = data.picture.map, keys = node("p", { class: "muted small no-print" },
      node("span", { class: "with-mouse" }, "Drag to zoom, double-click for all; Ctrl + wheel zooms, Shift + wheel moves. Keys: ← → step, + − zoom, 0 all, P peak" + (map ? "; on the map ↑ ↓ go from buffer to buffer." : ".")),
      node("span", { class: "with-finger" }, "Tap a step or a buffer to read it; the buttons zoom and move."));
    const frame = (place, text, keys = onKey) => node("div", { class: "chart", tabindex: "0", role: "group", "aria-label": text, onkeydown: keys }, place);
    for (const place of Object.values(places)) place.replaceChildren();
    drawn = [];
    const parts = [title, node("p", { class: "muted small" }, "Bytes that are alive after each step, by what they are for. ", data.reserved ? "Grey under the line: held by the runtime's allocator, but idle." : ""),
      tools(), node("ul", { class: "legend" }, ROLES.map((role) => node("li", null, chip(role), role)), data.reserved ? node("li", null, chip("slack"), "held, idle") : null),
      frame(places.timeline, summary()), readout,
      map ? node("p", { class: "chart-title" }, "Address map") : null,
      map ? node("p", { class: "muted small" }, "Each rectangle is a buffer: how long it is held (across) and where it lies (up). Grey is held by the runtime, but idle: what is asked for does not fit there, or is over.",
        map.opened.length ? " A pale one is planned as a whole for one run; what lies inside is drawn where it has a step of its own." : "",
        map.left_out ? ` ${number(map.left_out)} smaller buffers are left out.` : "") : null,
      map ? frame(places.map, `Address map of ${number(map.buffer.length)} buffers in ${map.regions.length} regions, ${size(map.top_bytes)}. The table below names the largest at the peak.`, onMapKey) : null, keys];
    box.replaceChildren(...parts.filter(Boolean));
  }

  const resized = new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(refit); });

  /* What was put on the page is drawn once it is there, and again when its width or its colours change. */
  function start() {
    const box = document.getElementById("timeline");
    resized.disconnect();
    if (!box) { data = null; return; }
    document.body.append(tip);
    if (data) draw();
    resized.observe(box);
  }
  page.afterwards(start);
  document.addEventListener("recolour", () => { if (data) draw(); });
  document.addEventListener("refit", refit);

  return { section };
})();
