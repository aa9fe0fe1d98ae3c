"use strict";

/* What can be moved: each control with its label, its value in the address, and its place in the state.
   The state is what the address says, so that an address can be sent to others. */
const controls = (() => {
  const { node } = page;
  const BATCHES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
  const DEFAULTS = { model: "yolov8s", runtime: "tensorrt", precision: "fp16", batch: "8", gpu: "rtx3090", vram: "", size: "1080p", fps: "30", codec: "h264",
    require: "0", infer_every: "1", margin: "30", frames: "auto" };
  const SIZES = [["720p", "1280 × 720"], ["1080p", "1920 × 1080"], ["1440p", "2560 × 1440"], ["4k", "3840 × 2160"]];
  const WORDS = { tensorrt: "TensorRT", onnxruntime: "ONNX Runtime", torch: "PyTorch", "as-is": "as the file has it" };
  const VIDEO = /^(\d+p|[48]k|\d+x\d+@?)(\d+(?:\.\d+)?)?$/;
  const MAX_STREAMS = 200, OTHER = "other";
  const form = document.getElementById("controls");
  const state = { ...DEFAULTS, dims: {}, shapes: {} };
  let changed = () => {}, choices = null, facts = null;

  /* ---- the address ---- */
  function readAddress() {
    const asked = new URLSearchParams(location.search);
    for (const key of Object.keys(DEFAULTS)) if (asked.has(key)) state[key] = asked.get(key).slice(0, 200);
    const video = VIDEO.exec(asked.get("video") || "");
    if (video) [state.size, state.fps] = [video[1], video[2] || "30"];
    if (state.vram) [state.vram, state.gpu] = [state.vram.replace(/ ?GiB$/i, ""), ""];
    if (asked.has("margin")) state.margin = asked.get("margin").replace(/%$/, "");
    for (const text of asked.getAll("dim")) { const place = text.lastIndexOf("="); if (place > 0) state.dims[text.slice(0, place)] = text.slice(place + 1); }
    for (const text of asked.getAll("shape")) { const place = text.lastIndexOf(":"); if (place > 0) state.shapes[text.slice(0, place)] = text.slice(place + 1); }
  }

  /* A shape at the batch of the slider, where the file leaves that open. */
  function ofBatch(name, shape) {
    const dims = facts?.inputs.find((each) => each.name === name)?.dims;
    return typeof dims?.[0] === "string" ? [state.batch, ...shape.split("x").slice(1)].join("x") : shape;
  }

  function common() {
    const asked = new URLSearchParams({ model: state.model, precision: state.precision });
    if (state.vram) asked.set("vram", state.vram + "GiB"); else if (state.gpu) asked.set("gpu", state.gpu);
    for (const [name, size] of Object.entries(state.dims)) if (size) asked.append("dim", `${name}=${size}`);
    for (const [name, shape] of Object.entries(state.shapes)) if (shape) asked.append("shape", `${name}:${ofBatch(name, shape)}`);
    return asked;
  }

  const question = {
    estimate() {
      const asked = common();
      asked.set("runtime", state.runtime);
      if (!facts || facts.fixed_batch === null) asked.set("batch", state.batch);
      return asked;
    },
    streams() {
      const asked = common();
      if (state.runtime === "torch" && !facts?.precisions.tensorrt.includes(state.precision)) asked.set("precision", "fp16");
      asked.set("video", state.size + state.fps);
      for (const key of ["codec", "infer_every"]) asked.set(key, state[key]);
      asked.set("margin", state.margin + "%");
      asked.set("batch", state.frames === "auto" || facts?.fixed_batch ? "auto" : state.batch);
      if (state.require !== "0") asked.set("require", state.require);
      return asked;
    },
  };

  function writeAddress() {
    const asked = question.estimate(), more = question.streams();
    for (const key of ["video", "codec", "infer_every", "margin", "require"]) if (more.has(key)) asked.set(key, more.get(key));
    asked.set("frames", state.frames);
    if (!state.gpu && !state.vram) asked.set("gpu", "");
    history.replaceState(null, "", "?" + asked.toString().replaceAll("%3A", ":").replaceAll("%2F", "/"));
  }

  function set(key, value) {
    state[key] = value;
    writeAddress();
    changed(key);
  }

  /* ---- the kinds of control ---- */
  const options = (pairs) => pairs.map(([value, text]) => node("option", { value }, text));

  function choice(key, label, groups) {
    const box = node("select", { id: "c-" + key, onchange: () => chosen(key, box.value) },
      groups.flatMap((group) => (group.label ? node("optgroup", { label: group.label }, options(group.options)) : options(group.options))));
    box.value = state[key];
    if (box.value !== state[key] && state[key]) {
      box.append(node("option", { value: state[key] }, state[key]));
      box.value = state[key];
    }
    return node("div", { class: "field" }, node("label", { for: box.id }, label), box);
  }

  /* A slider over *stops*, and a field for any number between. */
  function slider(key, label, stops, said, isExact) {
    const nearest = (value) => stops.reduce((best, stop, place) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? place : best), 0);
    const range = node("input", { type: "range", id: "c-" + key, min: 0, max: stops.length - 1, step: 1, value: nearest(Number(state[key])), oninput: () => move(String(stops[range.value])) });
    const shown = isExact
      ? node("input", { type: "number", id: "n-" + key, min: stops[0], step: 1, value: state[key], "aria-label": label + ", exactly", oninput: () => { if (shown.validity.valid && shown.value) move(shown.value); } })
      : node("output", { for: range.id }, said(state[key]));
    function move(value) {
      if (isExact) { if (document.activeElement !== shown) shown.value = value; else range.value = nearest(Number(value)); } else shown.textContent = said(value);
      range.setAttribute("aria-valuetext", said(value));
      set(key, value);
    }
    range.setAttribute("aria-valuetext", said(state[key]));
    return node("div", { class: "field" }, node("div", { class: "name" }, node("label", { for: range.id }, label), shown), range);
  }

  function number(label, value, attributes, onvalue) {
    const box = node("input", { type: "number", value, min: 1, step: 1, ...attributes, oninput: () => { if (box.validity.valid) onvalue(box.value); } });
    return node("label", null, label, box);
  }

  const upTo = (most, step = 1, from = 0) => Array.from({ length: Math.floor((most - from) / step) + 1 }, (_, place) => from + place * step);
  const group = (legend, ...fields) => node("fieldset", null, node("legend", null, legend), ...fields);

  /* ---- the groups ---- */
  function models() {
    const found = [{ label: "Built in", options: choices.models.map((each) => [each.name, each.title]) }];
    if (choices.files.length) found.push({ label: "In this folder", options: choices.files.map((name) => [name, name]) });
    const sent = Object.entries(choices.uploads);
    if (sent.length) found.push({ label: "Uploaded", options: sent });
    return found;
  }

  function upload() {
    const box = node("input", { type: "file", accept: ".onnx", onchange: () => box.files.length && send(box.files[0]) });
    return node("label", { class: "file" }, "Add an .onnx file", box);
  }

  let refused = () => {};
  async function send(file) {
    const answer = await fetch("/api/upload?" + new URLSearchParams({ name: file.name }), { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file })
      .then((reply) => reply.json()).catch(() => ({ error: { message: "the upload was refused: is the file larger than " + page.size(choices.max_upload_bytes) + "?", hint: "" } }));
    if (answer.error) { refused(answer.error); return; }
    choices.uploads[answer.model] = answer.name;
    set("model", answer.model);
  }

  /* Inputs whose file leaves axes open without a name: their shape is asked for whole. The batch stays the slider's. */
  const unnamed = () => facts.inputs.filter((each) => each.dims.some((dim, axis) => dim === "?" && axis > 0));
  const usual = (dims) => (dims.length === 4 ? 640 : 128);

  function sizes() {
    const fields = Object.keys(facts.dims).map((name) => number(name, state.dims[name], {}, (value) => { state.dims[name] = value; set("dims", state.dims); }));
    const shapes = unnamed().map((each) => node("label", null, `shape of ${each.name}`, node("input", { type: "text", value: state.shapes[each.name],
      onchange: (event) => { state.shapes[each.name] = event.target.value; set("shapes", state.shapes); } })));
    return fields.length + shapes.length ? node("div", { class: "field" }, node("div", { class: "sizes two" }, fields), node("div", { class: "sizes" }, shapes)) : null;
  }

  const short = (name) => name.replace(/^NVIDIA /, "").replace(/^GeForce /, "");
  const own = () => choices.gpus.filter((each) => each.key === choices.own_gpu).map((each) => ({ label: "This machine", options: [[each.key, short(each.name)]] }));

  function cards() {
    const families = { geforce: "GeForce", datacenter: "Data centre", workstation: "Workstation", jetson: "Jetson", "unified-desktop": "Desktop" };
    return Object.entries(families).map(([family, label]) => ({ label, options: choices.gpus.filter((each) => each.family === family && each.key !== choices.own_gpu).map((each) => [each.key, short(each.name)]) }));
  }

  /* A card of the catalogue, none, or one that is not in it: then its memory is asked for. */
  function card() {
    const groups = [{ options: [["", "none: just the size"], [OTHER, "not listed: by its memory"]] }, ...own(), ...cards()];
    const box = choice("gpu", "GPU", groups), select = box.querySelector("select");
    if (state.vram) {
      select.value = OTHER;
      box.append(number("GiB that CUDA can allocate", state.vram, { step: "any", min: 0.1 }, (value) => set("vram", value)));
    }
    return box;
  }

  function chosen(key, value) {
    if (key !== "gpu") { set(key, value); return; }
    state.vram = value === OTHER ? "24" : "";
    state.gpu = value === OTHER ? "" : value;
    build();
    set("gpu", state.gpu);
  }

  function build() {
    const runtimes = Object.keys(facts.precisions);
    if (!runtimes.includes(state.runtime)) state.runtime = runtimes[0];
    if (!facts.precisions[state.runtime].includes(state.precision)) state.precision = facts.precisions[state.runtime].includes("fp16") ? "fp16" : "as-is";
    const fixed = facts.fixed_batch;
    const focused = document.activeElement?.id;
    form.replaceChildren(
      group("What runs", choice("model", "Model", models()), upload(), sizes(),
        node("div", { class: "two" }, choice("runtime", "Runtime", [{ options: runtimes.map((name) => [name, WORDS[name]]) }]),
          choice("precision", "Precision", [{ options: facts.precisions[state.runtime].map((name) => [name, WORDS[name] || name]) }])),
        fixed === null ? slider("batch", "Batch", BATCHES, (value) => `batch ${value}`, true) : node("p", { class: "small muted" }, `The file fixes the batch to ${fixed}.`),
        card()),
      group("What the cameras send", node("div", { class: "two" }, choice("size", "Picture", [{ options: SIZES }]),
        choice("codec", "Codec", [{ options: choices.codecs.map((name) => [name, name.toUpperCase().replace("H264", "H.264")]) }])),
        slider("fps", "Frames a second", [1, 2, 5, 8, 10, 12, 15, 20, 25, 30, 50, 60], (value) => `${value} fps`),
        slider("require", "Streams that must fit", upTo(MAX_STREAMS), (value) => (value === "0" ? "just ask" : value)),
        slider("infer_every", "The model sees", upTo(10, 1, 1), (value) => (value === "1" ? "every frame" : `1 of ${value}`)),
        slider("margin", "Memory kept free", upTo(60, 5), (value) => `${value} %`),
        choice("frames", "Frames at once", [{ options: [["auto", "what suits the streams"], ["same", "the batch above"]] }])),
      node("p", { id: "took", "aria-hidden": "true" }));
    if (focused) document.getElementById(focused)?.focus();
  }

  async function start(onchange, onrefused) {
    readAddress();
    [changed, refused] = [onchange, onrefused];
    choices = await (await fetch("/api/choices")).json();
    if (choices.own_gpu && !state.vram && !new URLSearchParams(location.search).has("gpu")) state.gpu = choices.own_gpu;
  }

  /* Take over what is known of a model, and offer what goes with it. */
  function offer(known) {
    facts = known;
    const rank = (name) => known.inputs.find((each) => each.dims.includes(name))?.dims || [];
    state.dims = Object.fromEntries(Object.entries(known.dims).map(([name, size]) => [name, state.dims[name] ?? String(size ?? usual(rank(name)))]));
    state.shapes = Object.fromEntries(unnamed().map(({ name, dims }) => [name, state.shapes[name] ?? dims.map((dim) => (Number.isInteger(dim) ? dim : dim === dims[0] ? 1 : usual(dims))).join("x")]));
    build();
    writeAddress();
  }

  /* What may be asked next: the batches beside this one, then the other precisions. */
  function nextQuestions() {
    if (!facts) return [];
    const asIf = (key, value) => {
      const before = state[key];
      state[key] = String(value);
      const asked = question.estimate();
      state[key] = before;
      return asked;
    };
    const now = Number(state.batch), above = BATCHES.filter((batch) => batch > now), below = BATCHES.filter((batch) => batch < now).reverse();
    const batches = facts.fixed_batch === null ? [above[0], below[0], above[1], below[1]].filter(Boolean) : [];
    return [...batches.map((batch) => asIf("batch", batch)), ...facts.precisions[state.runtime].filter((name) => name !== state.precision).map((name) => asIf("precision", name))];
  }

  /* Flags of the command line as changes of the state; null where a flag has no control here. */
  const FLAGS = { "--precision": "precision", "-b": "batch", "--gpu": "gpu", "--codec": "codec", "--infer-every": "infer_every", "--runtime": "runtime" };
  function changesOf(flags) {
    const words = flags.split(" "), changes = {};
    for (let place = 0; place < words.length; place += 2) {
      const [flag, value] = [words[place], words[place + 1]], video = flag === "--video" && VIDEO.exec(value), dim = flag === "--dim" && value.split("=");
      if (FLAGS[flag]) changes[FLAGS[flag]] = value;
      else if (video) Object.assign(changes, { size: video[1], fps: video[2] || "30" });
      else if (dim) changes.dims = { ...state.dims, ...changes.dims, [dim[0]]: dim[1] };
      else if (flag === "--margin" && value.endsWith("%")) changes.margin = value.slice(0, -1);
      else return null;
    }
    return changes;
  }

  function apply(flags) {
    Object.assign(state, changesOf(flags));
    build();
    writeAddress();
    changed(null);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  return { state, question, nextQuestions, changesOf, apply, start, offer, rebuild: build, isReady: () => facts !== null };
})();
