"use strict";
/* cap2im.viewer(root) turns the element `root` into a viewer of the samples of one caption. It returns an object with
   - render(data): show a finished drawing; resolves when it is on the screen. May be called again with other data;
   - begin(start), glimpse(t, samples) and then render(data): show a drawing while the model draws it. Received glimpses are played at the
     pace of a replay and can be scrubbed. stop() ends the sequence early, and shows the last received glimpse;
   - mark(words, numbers): underline the words of the caption with these numbers;
   - seed(): of the selected sample; seen(): number of the glimpse on the screen; playing(): whether the animation runs;
   - clear(): hide the viewer.

   A viewer with a `leader` follows that viewer, whose controls move both: two captions from one seed.

   data: {caption, words: [L], model, width, height, glimpses: T, sizes: [width, height] of each stage, samples: [{seed, sheet: data URI of a
   PNG with all canvases, columns: canvases in a row of the sheet, attention: [T][L] or null, boxes: [T][left, top, right, bottom] in pixels
   or null, maps: one for each of the last stages (or more, of which the last count) {sheet: word attention as the alpha of a PNG, columns,
   width, height, full: attention at alpha 255, most: [L] largest attention of each word}}]}
   start: {caption, words, model, width, height, glimpses, seeds: of the samples}
   samples of a glimpse: [{image: data URI of the canvas, attention: [L] or null, box: [4] or null}] */
const cap2im = (() => {
  const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
  const percent = (share) => `${Math.round(100 * share)} %`;
  const place = (element, fractions) => {
    for (const [side, fraction] of Object.entries(fractions)) element.style[side] = `${100 * fraction}%`;
  };
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const playMilliseconds = 3200; // duration of the animation
  const markup = (level) => `
    <h${level} class="caption"></h${level}>
    <p class="words"></p>
    <div class="desk">
      <section class="easel" aria-label="Canvas">
        <div class="mat"><div class="paper"><canvas class="canvas" role="img"></canvas><canvas class="map" hidden></canvas><div class="window"></div></div></div>
        <div class="transport">
          <button class="play" type="button" aria-label="Play">
            <svg class="go" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 1.8v12.4c0 .6.6 1 1.1.7l9.6-6.2c.5-.3.5-1.1 0-1.4L5.1 1.1C4.6.8 4 1.2 4 1.8z"/></svg>
            <svg class="hold" viewBox="0 0 16 16" aria-hidden="true"><rect x="2.5" y="1" width="4" height="14" rx="1"/><rect x="9.5" y="1" width="4" height="14" rx="1"/></svg>
          </button>
          <input class="glimpse" type="range" min="1" value="1" step="1" aria-label="Glimpse">
          <output class="count" aria-live="off"></output>
        </div>
        <div class="options">
          <label class="outline"><input type="checkbox" checked> Written window</label>
          <label class="smoothing"><input type="checkbox"> Smooth pixels</label>
        </div>
        <div class="samples" role="group" aria-label="Samples"></div>
      </section>

      <section class="reading">
        <h${level + 1} class="title">Words read while drawing</h${level + 1}>
        <p class="where" aria-live="polite"></p>
        <div class="heat">
          <ol class="labels"></ol>
          <div class="plot" role="img"><canvas class="weights"></canvas><div class="gaps"></div><div class="unread"></div><div class="row" hidden></div><div class="now"></div></div>
          <div class="axis" aria-hidden="true"></div>
          <p class="key"><span>0 %</span><i></i><span class="most"></span><span class="unit"></span></p>
        </div>
      </section>
    </div>
    <footer>
      <dl>
        <div><dt>Model</dt><dd class="model"></dd></div>
        <div><dt>Seed</dt><dd class="seed"></dd></div>
        <div><dt class="steps"></dt><dd class="glimpses"></dd></div>
        <div><dt>Canvas</dt><dd class="size"></dd></div>
      </dl>
      <span class="keys"><kbd>Space</kbd> plays, <kbd>&larr;</kbd> <kbd>&rarr;</kbd> step</span>
    </footer>`;

  async function decode(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    return image;
  }

  /* level: heading level of the caption; leader: the viewer that this one follows, or null. */
  function viewer(root, { level = 1, leader = null } = {}) {
    root.classList.add("viewer");
    root.innerHTML = markup(level);
    const parts = new Map();
    const part = (name) => parts.get(name) ?? parts.set(name, root.querySelector(`.${name}`)).get(name);

    let data = null; // of the drawing on the screen
    let frames = null; // [sample][glimpse] images of an unfinished drawing
    let sheets = [], mapSheets = []; // [sample] decoded sheets of a finished drawing
    let received = 0, receiving = false; // number of received glimpses, and whether more will come
    let sample = 0, glimpse = 0, chosen = null, timer = null, renders = 0; // chosen: number of the word whose map is shown
    let fullWeight = 1; // attention of the full colour
    let marked = { words: [], numbers: [] }; // underlined words of the caption
    const followers = [];

    async function render(next) {
      const call = ++renders;
      const decoded = await Promise.all(next.samples.map(({ sheet }) => decode(sheet)));
      const decodedMaps = await Promise.all(next.samples.map(({ maps }) => Promise.all(maps.map(({ sheet }) => decode(sheet)))));
      if (call !== renders) return; // a later call has replaced this drawing
      const live = frames !== null && receiving; // the glimpses are already on the screen
      if (!live) pause();
      [data, frames, sheets, mapSheets, received, receiving] = [next, null, decoded, decodedMaps, next.glimpses, false];
      if (!live || lead.reducesMotion()) [glimpse, chosen] = [data.glimpses - 1, null];
      if (!live) sample = 0;
      fullWeight = fullColour();
      root.hidden = false;
      showCaption();
      showFrame();
      if (glimpse >= 0) show();
      if (live) lead.showReceived();
      else if (data.glimpses > 1 && !lead.reducesMotion()) lead.play();
    }

    // A drawing in progress

    function begin({ seeds, ...start }) {
      if (leader === null) pause();
      renders += 1;
      data = { ...start, sizes: [], samples: seeds.map((seed) => ({ seed, attention: null, boxes: null, maps: [] })) };
      [frames, received, receiving, sample, glimpse, chosen] = [seeds.map(() => []), 0, true, 0, -1, null];
      root.hidden = false;
      root.classList.add("waiting");
      showCaption();
      showFrame();
    }

    /* Glimpses must come in order, one call after the other. */
    async function addGlimpse(t, samples) {
      const call = renders;
      const images = await Promise.all(samples.map(({ image }) => decode(image)));
      if (call !== renders) return; // a later call has replaced this drawing
      samples.forEach(({ attention, box }, index) => {
        frames[index][t] = images[index];
        if (attention !== null) (data.samples[index].attention ??= [])[t] = attention;
        if (box !== null) (data.samples[index].boxes ??= [])[t] = box;
      });
      received = t + 1;
      fullWeight = fullColour();
      if (t === 0) {
        showCaption();
        showFrame();
      }
      lead.showReceived();
    }

    /* Show the newest glimpse that all viewers of a pair have. */
    function showReceived() {
      const last = ready() - 1;
      if (last < 0) return;
      if (self.reducesMotion()) go(last);
      else if (glimpse < 0) play();
      else if (timer === null) go(glimpse); // thumbnails and weights show the newest glimpse
    }

    function stop() {
      const unfinished = receiving;
      receiving = false;
      if (data !== null && received === 0) clear();
      if (unfinished) lead.finish();
    }

    /* Show the last glimpse that all viewers of a pair have. */
    function finish() {
      pause();
      go(ready() - 1);
    }

    function clear() {
      pause();
      renders += 1;
      [data, frames, received, receiving, glimpse] = [null, null, 0, false, -1];
      part("caption").replaceChildren();
      root.hidden = true;
    }

    /* The largest attention, or three times the mean where attention is nearly uniform, so that it looks pale. */
    function fullColour() {
      const weights = data.samples.flatMap((s) => s.attention ?? []).flat();
      return weights.reduce((a, b) => Math.max(a, b), Math.min(1, 3 / Math.max(1, data.words.length)));
    }

    // Parts that do not change between glimpses

    function showCaption() {
      const reads = data.samples[0].attention !== null;
      const pieces = reads || marked.numbers.length ? locate(data.caption, reads ? data.words : marked.words) : null;
      part("caption").className = `caption${data.caption.length > 90 ? " long" : data.caption ? "" : " none"}`;
      part("caption").replaceChildren(...(pieces ?? [data.caption || "No caption"]).map(word));
      part("words").replaceChildren(...(reads && !pieces ? data.words.map((text, index) => word({ text, index })) : []));
      part("words").hidden = !reads || pieces !== null;
    }

    function word(piece) {
      if (typeof piece === "string") return document.createTextNode(piece);
      const span = make("span", piece.text, "word");
      span.dataset.word = piece.index;
      span.classList.toggle("differs", marked.numbers.includes(piece.index));
      if (data.samples[0].maps.length) Object.assign(span, { role: "button", tabIndex: 0 });
      return span;
    }

    /* Split the caption as typed into its words and the text between them; null if the model reads other words. */
    function locate(caption, words) {
      const pieces = [];
      let from = 0;
      for (const [index, text] of words.entries()) {
        const start = caption.toLowerCase().indexOf(text.toLowerCase(), from);
        if (start < 0 && text === "." && index === words.length - 1) continue; // a full stop added by the model
        if (start < 0 || /[\p{L}\p{N}]/u.test(caption.slice(from, start))) return null;
        pieces.push(caption.slice(from, start), { text: caption.slice(start, start + text.length), index });
        from = start + text.length;
      }
      return /[\p{L}\p{N}]/u.test(caption.slice(from)) ? null : [...pieces, caption.slice(from)];
    }

    let shownSize = "";
    function showFrame() {
      const { glimpses, width, height, words, sizes, samples } = data;
      const moves = glimpses > 1, reads = samples[0].attention !== null, maps = samples[0].maps.length > 0;
      Object.assign(part("canvas"), { width, height });
      if (shownSize !== `${width} ${height}`) { // show the pixels of small canvases
        shownSize = `${width} ${height}`;
        part("smoothing").firstElementChild.checked = width > 240;
        root.classList.toggle("smooth", width > 240);
      }
      part("outline").hidden = samples.every((s) => s.boxes === null);
      part("transport").hidden = part("keys").hidden = !moves;
      part("glimpse").max = glimpses;
      part("count").replaceChildren(make("b", "0"), ` / ${glimpses}`);
      part("window").hidden = part("map").hidden = true;
      part("model").textContent = data.model;
      part("steps").textContent = sizes.length ? "Sizes" : "Glimpses";
      part("glimpses").textContent = sizes.length ? sizes.map(([across]) => across).join(", ") : glimpses;
      root.classList.toggle("mapping", maps);
      root.classList.remove("mapped");
      part("where").hidden = !maps;
      part("unit").textContent = `of the attention at a ${sizes.length ? "size" : "glimpse"}`;
      part("seed").textContent = samples[sample].seed;
      part("size").textContent = `${width} × ${height}`;
      part("samples").hidden = samples.length === 1;
      part("samples").replaceChildren(...samples.map((s, index) => {
        const button = make("button"), picture = Object.assign(make("canvas"), { width, height });
        button.type = "button";
        button.setAttribute("aria-label", `Sample ${index + 1}, seed ${s.seed}`);
        button.addEventListener("click", () => lead.selectSample(index));
        button.append(picture);
        if (frames === null) paint(picture, index, glimpses - 1);
        return button;
      }));

      if (frames !== null && received === 0) return; // the first glimpse shows whether the model has attention
      root.classList.remove("waiting");
      part("desk").classList.toggle("both", reads);
      part("reading").hidden = !reads;
      if (!reads) return;
      const { style } = part("heat");
      style.setProperty("--words", words.length);
      style.setProperty("--glimpses", glimpses);
      style.setProperty("--gap", glimpses > 64 ? "0px" : "1px");
      part("plot").setAttribute("aria-label", `Attention to ${words.length} words over ${glimpses} glimpses`);
      part("labels").replaceChildren(...words.map((text, index) => {
        const label = make("li");
        label.dataset.word = index;
        label.title = text;
        label.append(make("span", text), make("span", "", "share"));
        return label;
      }));
      const step = [1, 2, 4, 8, 16, 32, 64, 128].find((n) => glimpses / n <= 8);
      const ticks = Array.from({ length: Math.floor(glimpses / step) }, (_, n) => (n + 1) * step);
      part("axis").replaceChildren(...ticks.map((n) => {
        const tick = make("span", String(sizes[n - 1]?.[0] ?? n));
        tick.style.left = `${(100 * (n - 0.5)) / glimpses}%`;
        return tick;
      }));
    }

    // Parts that change with the glimpse

    function show() {
      const { glimpses, width, height, samples } = data;
      const { seed, boxes, attention } = samples[sample];
      paint(part("canvas"), sample, glimpse);
      showMap();
      part("canvas").setAttribute("aria-label", `Canvas after glimpse ${glimpse + 1} of ${glimpses}`);
      part("glimpse").value = glimpse + 1;
      part("glimpse").setAttribute("aria-valuetext", `${glimpse + 1} of ${glimpses}`);
      part("count").replaceChildren(make("b", String(glimpse + 1)), ` / ${glimpses}`);
      part("seed").textContent = seed;
      [...part("samples").children].forEach((button, index) => {
        button.setAttribute("aria-pressed", index === sample);
        if (frames !== null) paint(button.firstElementChild, index, glimpse);
      });

      part("window").hidden = boxes === null || !lead.outlined();
      if (boxes !== null) {
        const [left, top, right, bottom] = boxes[glimpse];
        place(part("window"), { left: left / width, top: top / height, width: (right - left) / width, height: (bottom - top) / height });
      }
      if (attention === null) return;
      root.querySelectorAll(".word").forEach((span) => {
        const share = attention[glimpse][span.dataset.word] / fullWeight;
        span.style.setProperty("--weight", (share ** 1.5).toFixed(3)); // keeps words with little attention unshaded
      });
      [...part("labels").children].forEach((label, index) => { label.lastChild.textContent = percent(attention[glimpse][index]); });
      place(part("now"), { left: glimpse / glimpses });
      place(part("unread"), { left: (glimpse + 1) / glimpses });
      showWeights();
    }

    /* Show the map of the chosen word over its stage; the first stages may have no maps. */
    function showMap() {
      const { words, sizes, samples } = data;
      const { maps } = samples[sample];
      const index = glimpse - (sizes.length - maps.length), map = chosen === null ? undefined : maps[index];
      root.querySelectorAll("[data-word]").forEach((element) => {
        const here = Number(element.dataset.word) === chosen;
        element.classList.toggle("chosen", here);
        if (element.role === "button") element.setAttribute("aria-pressed", here);
      });
      root.classList.toggle("mapped", map !== undefined);
      part("map").hidden = map === undefined;
      if (chosen === null) part("where").textContent = "Choose a word to see where it is read.";
      else if (map === undefined) part("where").textContent = "At this size no words are read.";
      else part("where").textContent = `“${words[chosen]}” gets up to ${percent(map.most[chosen])} of the attention at a place; full colour is ${percent(map.full)}.`;
      if (map === undefined) return;
      const { width, height, columns } = map;
      const pen = Object.assign(part("map"), { width, height }).getContext("2d");
      pen.drawImage(mapSheets[sample][index], (chosen % columns) * width, Math.floor(chosen / columns) * height, width, height, 0, 0, width, height);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--tint");
      pen.fillRect(0, 0, width, height);
    }

    function choose(index) {
      chosen = index === chosen ? null : index;
      const maps = data.samples[sample].maps.length;
      if (chosen !== null && glimpse < data.sizes.length - maps) lead.go(data.sizes.length - maps); // the first stage with maps
      show();
    }

    /* Deselect the word; return whether one was selected. */
    function unchoose() {
      if (data === null || chosen === null) return false;
      choose(null);
      return true;
    }

    let paintedWeights = ""; // state of the painted heat map, to repaint it only on a change
    function showWeights() {
      const { attention } = data.samples[sample];
      const colour = getComputedStyle(document.documentElement).getPropertyValue("--read").trim();
      const state = `${renders} ${sample} ${attention.length} ${fullWeight} ${colour}`;
      if (paintedWeights === state) return;
      paintedWeights = state;
      part("most").textContent = percent(fullWeight);
      const canvas = Object.assign(part("weights"), { width: data.glimpses, height: 13 * data.words.length }); // 12 of 13 pixels of a row are filled
      const pen = canvas.getContext("2d");
      attention.forEach((weights, t) => weights.forEach((weight, index) => {
        pen.fillStyle = `rgb(${colour} / ${0.07 + (0.93 * weight) / fullWeight})`;
        pen.fillRect(t, 13 * index, 1, 12);
      }));
    }

    function paint(canvas, index, t) {
      const { width, height, samples } = data;
      const pen = canvas.getContext("2d");
      if (frames !== null) {
        pen.drawImage(frames[index][t], 0, 0, width, height);
        return;
      }
      const { columns } = samples[index];
      pen.drawImage(sheets[index], (t % columns) * width, Math.floor(t / columns) * height, width, height, 0, 0, width, height);
    }

    function mark(words, numbers) {
      marked = { words, numbers };
      if (data !== null) showCaption();
      if (data !== null && glimpse >= 0) show();
    }

    // Moving through the glimpses; the viewers of a pair move together

    const together = () => followers.filter((follower) => follower.hasData());
    const ready = () => Math.min(received, ...together().map((follower) => follower.received()));
    const awaiting = () => receiving || together().some((follower) => follower.receiving());

    function move(to, of, playing) {
      [glimpse, sample] = [to, of];
      root.classList.toggle("playing", playing);
      show();
    }

    function go(to) {
      glimpse = Math.min(ready() - 1, Math.max(0, to));
      if (glimpse < 0) return;
      show();
      together().forEach((follower) => follower.move(glimpse, sample, timer !== null));
    }

    function selectSample(index) {
      sample = index;
      go(glimpse);
    }

    function play() {
      pause();
      go(glimpse >= ready() - 1 && !awaiting() ? 0 : glimpse);
      const next = () => {
        if (glimpse < ready() - 1) go(glimpse + 1);
        else if (!awaiting()) pause();
      };
      timer = setInterval(next, Math.min(400, Math.max(16, playMilliseconds / data.glimpses)));
      root.classList.add("playing");
      part("play").setAttribute("aria-label", "Pause");
    }

    function pause() {
      clearInterval(timer);
      timer = null;
      root.classList.remove("playing");
      together().forEach((follower) => follower.root.classList.remove("playing"));
      part("play").setAttribute("aria-label", "Play");
    }

    const toggle = () => (timer === null ? play() : pause());

    function scrub(event) {
      const area = part("plot").getBoundingClientRect();
      lead.pause();
      lead.go(Math.floor((data.glimpses * (event.clientX - area.left)) / area.width));
    }

    function highlight(index) {
      root.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
      part("row").hidden = index === null;
      if (index === null) return;
      root.querySelectorAll(`[data-word="${index}"]`).forEach((element) => element.classList.add("lit"));
      part("row").style.top = `calc(var(--row) * ${index})`;
    }

    const self = {
      root, render, begin, glimpse: addGlimpse, stop, clear, mark, seed: () => data.samples[sample].seed,
      seen: () => glimpse + 1, playing: () => timer !== null,
      // used between the viewers of a pair
      followers, showReceived, finish, go, selectSample, move, play, pause, unchoose,
      received: () => received, hasData: () => data !== null, receiving: () => receiving, reducesMotion: () => reducedMotion.matches,
      outlined: () => part("outline").firstElementChild.checked,
    };
    const lead = leader ?? self;
    leader?.followers.push(self);

    part("play").addEventListener("click", toggle);
    part("glimpse").addEventListener("input", (event) => { pause(); go(event.target.value - 1); });
    part("outline").addEventListener("change", () => go(glimpse));
    part("smoothing").addEventListener("change", (event) => {
      for (const each of [self, ...followers]) each.root.classList.toggle("smooth", event.target.checked);
    });
    part("plot").addEventListener("pointerdown", (event) => { part("plot").setPointerCapture(event.pointerId); scrub(event); });
    part("plot").addEventListener("pointermove", (event) => { if (part("plot").hasPointerCapture(event.pointerId)) scrub(event); });
    root.addEventListener("click", (event) => {
      const word = event.target.closest("[data-word]");
      if (word === null || !data.samples[0].maps.length) return;
      lead.pause();
      choose(Number(word.dataset.word));
    });
    document.addEventListener("pointermove", (event) => {
      if (data === null) return;
      if (event.target === part("plot")) {
        const row = Math.floor((event.clientY - part("plot").getBoundingClientRect().top) / (part("plot").clientHeight / data.words.length));
        highlight(Math.min(data.words.length - 1, Math.max(0, row)));
      } else {
        highlight(root.contains(event.target) ? event.target.closest("[data-word]")?.dataset.word ?? null : null);
      }
    });
    if (leader === null) document.addEventListener("keydown", (event) => {
      const field = event.target.closest("input:not([type=range], [type=checkbox]), textarea, select");
      if (data === null || field || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], button = event.target.closest("[role=button]");
      if (button && (event.key === "Enter" || event.key === " ")) {
        button.click();
      } else if (event.key === "Escape" && [self, ...followers].filter((each) => each.unchoose()).length) {
        // all viewers of a pair have deselected their words
      } else if (data.glimpses === 1) {
        return;
      } else if (step) {
        pause();
        go(glimpse + step);
      } else if (event.key === " " && !event.target.closest("button, a, [type=checkbox]")) { // these handle the space key themselves
        toggle();
      } else {
        return;
      }
      event.preventDefault();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (data !== null && glimpse >= 0) show(); });

    return self;
  }

  return { viewer };
})();
