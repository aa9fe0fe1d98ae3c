"use strict";

/* The board: a change asks anew, the newest answer is drawn. One question of a kind is on its way at a time, the newest waits;
   advice, which takes longer, is asked for once nothing moves, and then what may be asked next is solved ahead. */
(() => {
  const { node, card } = page;
  const REST_MS = 250, SLOW_MS = 400;
  const main = document.getElementById("main"), problems = document.getElementById("problems"), said = document.getElementById("said");
  const found = { estimate: null, streams: null }, waiting = {}, failed = {};
  const ofStreams = {};
  let advising = null, rest = 0, telling = 0;

  /* ---- asking ---- */
  async function answer(path, signal) {
    const begun = performance.now();
    const reply = await fetch(path, { signal });
    const made = await reply.json();
    if (reply.status === 503) { await new Promise((done) => setTimeout(done, 200)); throw new Error("busy"); }
    return { made, problem: reply.ok ? null : made.error, took: performance.now() - begun };
  }

  async function ask(kind) {
    if (waiting[kind]) { waiting[kind] = "again"; return; }
    waiting[kind] = "asked";
    const slow = setTimeout(() => { document.getElementById("took").textContent = "asking …"; }, SLOW_MS);
    try {
      const { made, problem, took } = await answer(`/api/${kind}?${controls.question[kind]()}`);
      failed[kind] = problem;
      if (!problem) { found[kind] = made; draw[kind](made); show(kind, took); }
    } catch (error) {
      if (error.message === "busy") waiting[kind] = "again";
      else failed[kind] = { message: "the board does not answer", hint: "Is vramplan serve still running?" };
    }
    clearTimeout(slow);
    tell();
    const isAgain = waiting[kind] === "again";
    waiting[kind] = null;
    if (isAgain) ask(kind); else later();
  }

  function later() {
    clearTimeout(rest);
    rest = setTimeout(advise, REST_MS);
  }

  async function advise() {
    if (Object.values(waiting).some(Boolean)) return;
    advising = new AbortController();
    for (const kind of ["streams", "estimate"]) {
      if (!found[kind] || failed[kind] || found[kind].advised) continue;
      const asked = controls.question[kind]();
      asked.set("advice", "yes");
      try {
        const { made, problem } = await answer(`/api/${kind}?${asked}`, advising.signal);
        if (problem || advising.signal.aborted) continue;
        found[kind] = made;
        advised[kind](made);
      } catch { return; }
    }
    for (const asked of controls.nextQuestions()) {
      try { await fetch("/api/ahead/estimate?" + asked, { signal: advising.signal }); } catch { return; }
    }
  }

  /* A control has moved; null: several. */
  function moved(key) {
    advising?.abort();
    clearTimeout(rest);
    if (key === null) { ask("estimate"); ask("streams"); return; }
    if (key === "model") { openModel(); return; }
    if (key === "runtime") controls.rebuild();
    const isMemory = ["runtime", "precision", "batch", "gpu", "vram", "dims", "shapes"].includes(key);
    const isStreams = !["runtime", "batch"].includes(key) || (key === "batch" && controls.state.frames === "same");
    if (isMemory) ask("estimate");
    if (isStreams) ask("streams");
  }

  async function openModel() {
    const { made, problem } = await answer("/api/model?" + new URLSearchParams({ model: controls.state.model }));
    failed.model = problem || failed.address;
    failed.address = null;
    if (problem && !controls.isReady()) {
      failed.address = problem;
      controls.state.model = "yolov8s";
      openModel();
    }
    if (problem) { tell(); return; }
    controls.offer(made);
    ask("estimate");
    ask("streams");
  }

  /* ---- drawing ---- */
  const waitingCard = () => card("remedy", "What helps most", "…", node("p", { class: "muted" }, "Changes are being solved."));
  const headed = (verdict, text) => { verdict.querySelector("#sentence")?.before(node("span", { class: "kind" }, text)); return verdict; };
  const runtimes = { tensorrt: "TensorRT", onnxruntime: "ONNX Runtime", torch: "PyTorch" };

  const draw = {
    estimate(made) {
      page.render(made);
      headed(main.querySelector(".verdict"), `Memory, ${runtimes[controls.state.runtime]}`);
      main.querySelector(".is-remedy").replaceWith(made.advised ? remedy(made) : waitingCard());
      scale(made);
      document.getElementById("foot").replaceChildren("vramplan serve, on this machine: nothing leaves it. The numbers are those of --json. Charts: uPlot, MIT licence.");
      document.title = `${made.headline[0]}: vramplan board`;
      put();
    },
    streams(made) {
      const nodes = page.about(made, page.kinds.streams);
      const pick = (selector) => nodes.find((each) => each.matches(selector));
      const drawn = { verdict: headed(pick(".verdict"), "Streams, TensorRT"), limits: pick("#limits"), cards: pick(".cards"), premises: pick("#premises") };
      drawn.verdict.querySelector("#sentence").id = "streams-sentence";
      drawn.cards.querySelector(".is-remedy").replaceWith(made.advised ? remedy(made) : waitingCard());
      for (const [name, made] of Object.entries(drawn)) {
        made.classList.add("of-streams");
        if (ofStreams[name]?.isConnected) ofStreams[name].replaceWith(made);
        ofStreams[name] = made;
      }
      put();
    },
  };

  /* Both answers first, then what they are made of, then the rest. */
  function put() {
    if (!found.estimate || !found.streams || ofStreams.verdict?.isConnected || !main.querySelector(".verdict")) return;
    const place = (selector) => main.querySelector(`:scope > ${selector}:not(.of-streams)`);
    place(".verdict").after(ofStreams.verdict, place("#budget"), ofStreams.limits);
    place(".cards").after(ofStreams.cards);
    place(".notes").before(ofStreams.premises);
  }

  /* What stands for a try: its flags, and a button that sets the controls to them. */
  function remedy(made) {
    const box = page.about(made, () => page.remedyCard(made.without.title, made.without.big, made.without.sentence));
    for (const flags of box.querySelectorAll("code")) {
      const text = flags.textContent;
      if (controls.changesOf(text)) flags.after(node("button", { type: "button", class: "apply no-print", "aria-label": "Apply " + text, onclick: () => controls.apply(text) }, "apply"));
    }
    return box;
  }

  const advised = {
    estimate: (made) => main.querySelector(".cards:not(.of-streams) .is-remedy").replaceWith(remedy(made)),
    streams: (made) => ofStreams.cards.querySelector(".is-remedy").replaceWith(remedy(made)),
  };

  /* What a small screen keeps in sight while a slider moves. */
  function glance() {
    const { estimate, streams } = found, signs = { yes: "✓", no: "✗", doubt: "~", none: "→" };
    document.getElementById("glance").replaceChildren(
      ...(estimate ? [node("span", { class: estimate.state }, `${signs[estimate.state]} ${estimate.cells[0].total} ${estimate.cells[0].unit}`)] : []),
      ...(streams ? [node("span", { class: streams.state }, `${signs[streams.state]} ${streams.cards[0].streams} streams (${streams.cards[0].range})`)] : []));
  }

  /* A bar that fills its row whatever the batch is would hide what a slider does: here the row is a power of two wide. */
  function scale(made) {
    if (made.limit.share !== null) return;
    const full = made.report.rows[0].total_high_bytes, whole = 2 ** Math.ceil(Math.log2(full)), box = main.querySelector("#budget .bar-box");
    box.style.width = (100 * full) / whole + "%";
    box.closest("section").querySelector("p").append(` The row is ${page.size(whole)} wide.`);
  }

  function show(kind, took) {
    glance();
    document.getElementById("took").textContent = `answered in ${Math.round(took)} ms`;
    clearTimeout(telling);
    telling = setTimeout(() => { said.textContent = [found.estimate?.sentence, found.streams?.sentence].filter(Boolean).join(" "); }, 700);
  }

  function tell() {
    const names = { model: "Model", estimate: "Memory", streams: "Streams" };
    problems.replaceChildren(...Object.entries(failed).filter(([kind, problem]) => problem && names[kind]).map(([kind, problem]) =>
      node("div", { class: "problem" }, node("p", null, node("b", null, names[kind] + ": "), problem.message), problem.hint ? node("p", { class: "muted" }, problem.hint) : null)));
    main.classList.toggle("stale", Boolean(failed.estimate));
    for (const each of Object.values(ofStreams)) each.classList.toggle("is-stale", Boolean(failed.streams));
  }

  controls.start(moved, (problem) => { failed.model = problem; tell(); failed.model = null; }).then(openModel);
})();
