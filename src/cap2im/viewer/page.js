"use strict";
/* The page: its form, the drawing in progress and its files. viewer.js shows drawings; cap2im.api draws them, on a server or in the browser:
   - models(): resolves to {models: [{name, description, examples}], default, limits: {samples, characters}};
   - words(model): resolves to its words, most usual first;
   - read(caption, model, signal): resolves to {words, unknown: [{word, nearest}]};
   - draw({captions, seed, samples, model}, signal): yields {event, data}: start, then for each result glimpse and drawn, then end; or error;
   - file({captions, seed, samples, model, format, enlarge}): resolves to a Blob, or the URL of a file;
   - key: {has(), keep(key)} of a server that requires one.
   Each throws cap2im.Refusal(status, detail, after), an error with HTTP's number and a message for people. */
(() => {

  const at = (id) => document.getElementById(id);
  const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
  const { api, Refusal } = cap2im;
  const patience = 300; // milliseconds until the Stop button appears
  const exampleCount = 5, exampleTime = 6000; // examples shown at once, and milliseconds until the next ones
  const quantity = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;

  let models = [], words = []; // of the server; of the selected model
  let running = null; // AbortController of the drawing in progress
  let rotation; // timer of the examples
  let drawn = null; // the request of the drawing on the screen
  const viewers = [cap2im.viewer(at("first"), { level: 2 })];
  viewers.push(cap2im.viewer(at("second"), { level: 2, leader: viewers[0] }));

  const model = () => models.find(({ name }) => name === at("model-choice").value);
  const box = (root, id, label, examples) => new cap2im.CaptionBox(root, {
    id, label, examples,
    read: (caption, signal) => api.read(caption, model()?.name ?? null, signal),
    vocabulary: () => words,
  });
  const boxes = [
    box(at("first-box"), "caption", "Caption", () => (at("ideas").hidden ? model()?.examples ?? [] : [])),
    box(at("second-box"), "second-caption", "Second caption", () => flips(boxes[0].value)),
  ];

  /* Examples that differ from a caption, those with the fewest changed words first. */
  function flips(caption) {
    const other = (example) => differing(caption.toLowerCase().split(/\s+/), example.toLowerCase().split(/\s+/)).flat().length;
    return (model()?.examples ?? []).filter((example) => other(example) > 0).sort((a, b) => other(a) - other(b));
  }

  /* Returns the indices of the words of two captions outside of their longest common subsequence. */
  function differing(ours, theirs) {
    const common = Array.from({ length: ours.length + 1 }, () => new Array(theirs.length + 1).fill(0));
    for (let i = ours.length - 1; i >= 0; i--) {
      for (let j = theirs.length - 1; j >= 0; j--) {
        common[i][j] = ours[i] === theirs[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
      }
    }
    const alone = [[], []];
    let i = 0, j = 0;
    while (i < ours.length || j < theirs.length) {
      if (i < ours.length && j < theirs.length && ours[i] === theirs[j]) [i, j] = [i + 1, j + 1];
      else if (j === theirs.length || (i < ours.length && common[i + 1][j] >= common[i][j + 1])) alone[0].push(i++);
      else alone[1].push(j++);
    }
    return alone;
  }

  // The request, and its address

  function wanted() {
    const captions = (at("pair-choice").checked ? boxes : boxes.slice(0, 1)).map((each) => each.value);
    return { captions, seed: at("seed-choice").valueAsNumber, samples: at("samples-choice").valueAsNumber, model: at("model-choice").value };
  }

  function address({ captions, seed, samples, model }) {
    const state = new URLSearchParams({ caption: captions[0], seed, samples, model });
    if (captions.length > 1) state.set("second", captions[1]);
    return `#${state}`;
  }

  /* Returns the request in the address; null for the plain page. */
  function addressed() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!state.has("caption")) return null;
    const number = (name, otherwise) => (/^\d+$/.test(state.get(name)) ? Number(state.get(name)) : otherwise);
    return {
      captions: [state.get("caption"), state.get("second")].filter((caption) => caption !== null),
      seed: number("seed", 0), samples: number("samples", 1), model: state.get("model"),
    };
  }

  async function fill({ captions, seed, samples, model: name }) {
    if (models.some((each) => each.name === name) && name !== at("model-choice").value) {
      at("model-choice").value = name;
      await learnWords();
    }
    for (const [field, number] of [[at("seed-choice"), seed], [at("samples-choice"), samples]]) {
      field.value = Math.min(field.max, Math.max(field.min, number));
    }
    at("pair-choice").checked = captions.length > 1;
    at("second-box").hidden = captions.length < 2;
    captions.forEach((caption, index) => { boxes[index].value = caption; });
  }

  // Drawing

  async function draw(request) {
    running?.abort();
    const mine = running = new AbortController(), { signal } = mine;
    forget();
    const offer = setTimeout(() => { at("stop").hidden = false; }, patience);
    at("status").textContent = "Waiting for the model";
    const began = performance.now();
    let glimpses = 0, first = true, ended = false;
    const halt = () => { // returns the number of glimpses drawn so far
      viewers.forEach((viewer) => viewer.stop());
      return glimpses ? viewers[0].seen() : 0;
    };
    try {
      for await (const { event, data } of api.draw(request, signal)) {
        if (event === "start") {
          glimpses = data.results[0].glimpses;
          drawn = request;
          if (location.hash !== address(request)) history.pushState(null, "", address(request));
          document.title = `${request.captions[0]} · cap2im`;
          invite(false);
          begin(data);
        } else if (event === "glimpse") {
          if (first) at("status").textContent = `Drawing, ${quantity(glimpses, "glimpse")}`;
          await viewers[data.result].glimpse(data.glimpse, data.samples);
          if (first) at("stage").querySelector(".mat").scrollIntoView({ block: "nearest" }); // does nothing if it is in view
          first = false;
        } else if (event === "drawn") {
          await viewers[data.result].render(data.data);
        } else if (event === "error") {
          throw new Refusal(500, data.detail);
        } else if (event === "end") {
          ended = true;
        }
        if (signal.aborted) break;
      }
      if (!ended && !signal.aborted) {
        const seen = halt();
        throw new Refusal(0, `The connection was lost ${seen ? `after glimpse ${seen} of ${glimpses}` : "before the drawing began"}.`);
      }
      const slower = glimpses > 1 && viewers[0].playing() ? ", shown more slowly" : "";
      if (ended) at("status").textContent = `Drawn in ${((performance.now() - began) / 1000).toFixed(1)} s${slower}`;
    } catch (error) {
      const plain = await plainly(error, request);
      if (!signal.aborted) {
        at("status").textContent = "";
        tell(plain, () => draw(request));
      }
    }
    clearTimeout(offer);
    if (running !== mine) return; // another drawing has started
    const seen = halt();
    invite(at("first").hidden);
    if (signal.aborted) at("status").textContent = seen ? `Stopped after glimpse ${seen} of ${glimpses}` : "Stopped";
    running = null;
    if (document.activeElement === at("stop")) at("draw").focus();
    at("stop").hidden = true;
  }

  /* Shows the start page with its examples while nothing is drawn. */
  function invite(empty) {
    document.body.classList.toggle("empty", empty);
    at("ideas").hidden = !empty || !model()?.examples.length;
  }

  /* Returns a short message if the boxes already mark the unknown words. */
  async function plainly(error, { captions }) {
    if (error.status !== 422) return error;
    const unknown = await Promise.all(captions.map((caption, index) => boxes[index].value === caption && boxes[index].check()));
    return unknown.some(Boolean) ? new Refusal(422, "Nothing was drawn. Change the underlined words, or leave them out.") : error;
  }

  function begin({ model, results }) {
    const pair = results.length > 1;
    at("stage").classList.toggle("pair", pair);
    if (!pair) viewers[1].clear();
    const marks = pair ? differing(...results.map(({ words }) => words)) : [[]];
    results.forEach((result, index) => {
      viewers[index].mark(result.words, marks[index]);
      viewers[index].begin({ model, ...result });
    });
  }

  // Errors

  let countdown = null;
  function forget() {
    clearInterval(countdown);
    at("trouble").hidden = true;
    at("told").textContent = "";
  }

  /* Shows an error, with a button to try again if that can help. */
  function tell(error, again) {
    clearInterval(countdown);
    if (!(error instanceof Refusal)) console.error(error);
    const { status = -1, after = null, message } = error;
    at("trouble").hidden = false;
    at("told").textContent = status === 401 && !api.key.has() ? "This server requires an API key." : status < 0 ? `The page failed: ${message}` : message;
    at("key-form").hidden = status !== 401;
    at("key-form").onsubmit = (event) => {
      event.preventDefault();
      api.key.keep(at("key").value);
      at("key").value = "";
      forget();
      again();
    };
    at("again").hidden = ![-1, 0, 408, 500, 503, 504].includes(status);
    at("again").onclick = () => { forget(); again(); };
    let left = status === 503 ? after ?? 1 : 0;
    const count = () => {
      at("again").disabled = left > 0;
      at("again").textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left-- <= 0) clearInterval(countdown);
    };
    count();
    if (left >= 0) countdown = setInterval(count, 1000);
    if (status === 401) at("key").focus();
    requestAnimationFrame(() => at("trouble").scrollIntoView({ block: "nearest" })); // after layout
  }

  // Files of the drawing on the screen

  async function save(index, format, button) {
    const { captions, samples, seed, model } = drawn;
    const whole = format === "html"; // a page has all samples, a picture the one in view
    const body = { captions: [captions[index]], model, format, seed: whole ? seed : viewers[index].seed(), samples: whole ? samples : 1, enlarge: !whole };
    button.disabled = true;
    try {
      const file = await api.file(body);
      const link = make("a");
      link.download = `${captions[index].toLowerCase().match(/[\p{L}\p{N}]+/gu)?.join("-").slice(0, 60) ?? "drawing"}-${body.seed}.${format}`;
      link.href = file instanceof Blob ? URL.createObjectURL(file) : file;
      if (!(file instanceof Blob) && link.origin !== location.origin) [link.target, link.rel] = ["_blank", "noopener"]; // browsers open files of other origins instead of saving them
      link.click();
      if (file instanceof Blob) setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      tell(error, () => save(index, format, button));
    }
    button.disabled = false;
  }

  viewers.forEach((viewer, index) => {
    const saving = make("p", "Save as", "saving");
    for (const [format, name] of [["png", "PNG"], ["gif", "GIF"], ["html", "Page"]]) {
      const button = Object.assign(make("button", name), { type: "button" });
      button.setAttribute("aria-label", `Save as ${name}`);
      button.addEventListener("click", () => save(index, format, button));
      saving.append(button);
    }
    if (index === 0 && navigator.clipboard !== undefined) { // only in secure contexts
      const link = Object.assign(make("button", "Copy link"), { type: "button" });
      link.addEventListener("click", async () => {
        await navigator.clipboard.writeText(new URL(address(drawn), location));
        at("status").textContent = "Link copied";
      });
      saving.append(link);
    }
    viewer.root.querySelector(".easel").append(saving);
  });

  // The form

  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const empty = (at("pair-choice").checked ? boxes : boxes.slice(0, 1)).find((each) => each.value === "");
    if (empty !== undefined) {
      empty.input.focus();
      at("status").textContent = "Type a caption first";
      return;
    }
    if (matchMedia("(pointer: coarse)").matches) document.activeElement.blur(); // a phone's keyboard would cover the drawing
    draw(wanted());
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("new-seed").addEventListener("click", () => {
    at("seed-choice").value = Math.floor(Math.random() * 10_000);
    if (boxes[0].value !== "") at("composer").requestSubmit();
  });
  at("pair-choice").addEventListener("change", () => {
    const pair = at("pair-choice").checked;
    at("second-box").hidden = !pair;
    if (!pair) return;
    if (boxes[1].value === "") boxes[1].value = boxes[0].value; // most of it is kept
    boxes[1].input.focus();
  });
  at("model-choice").addEventListener("change", chooseModel);
  addEventListener("popstate", show);

  /* Draws the request in the address; does nothing on the plain page. */
  async function show() {
    const request = addressed();
    if (request === null) {
      running?.abort();
      viewers.forEach((viewer) => viewer.clear());
      forget();
      [document.title, at("status").textContent] = ["cap2im", ""];
      invite(true);
      return;
    }
    await fill(request);
    if (request.model !== null && request.model !== model().name) {
      invite(at("first").hidden);
      tell(new Refusal(404, `The link is to a drawing by ${request.model}, which is not among the models here.`));
      return;
    }
    history.replaceState(null, "", address(wanted())); // the full link; a second history entry would break the back button
    draw(wanted());
  }

  // Models of the server

  async function learnModels() {
    try {
      const told = await api.models();
      models = told.models;
      at("model-choice").replaceChildren(...models.map(({ name, description }) => Object.assign(make("option", name), { value: name, title: description })));
      at("model-choice").value = told.default;
      at("model-choice").closest("label").hidden = models.length === 1;
      at("samples-choice").max = told.limits.samples;
      at("seed-choice").max = Number.MAX_SAFE_INTEGER - told.limits.samples;
      boxes.forEach((each) => each.limit(told.limits.characters));
      await learnWords();
      await show();
    } catch (error) {
      tell(error, learnModels);
      if (error.status === 503) setTimeout(() => at("again").click(), 1000 * (error.after ?? 1) + 100); // it is still starting
    }
  }

  async function chooseModel() {
    try {
      await learnWords();
    } catch (error) {
      tell(error, chooseModel);
    }
  }

  async function learnWords() {
    const { name, examples, description } = model();
    at("model-choice").title = description;
    invite(document.body.classList.contains("empty"));
    showExamples(examples);
    words = await api.words(name);
    boxes.forEach((each) => each.renew());
  }

  /* Shows some of a model's examples, and others after a while. They stay under a pointer, with the focus, and where motion is reduced. */
  function showExamples(examples) {
    const list = at("ideas").querySelector("ul");
    clearInterval(rotation);
    const show = (first) => list.replaceChildren(...examples.slice(first, first + exampleCount).map((example) => {
      const item = make("li"), button = Object.assign(make("button", example), { type: "button" });
      button.addEventListener("click", () => {
        boxes[0].value = example;
        at("composer").requestSubmit();
      });
      item.append(button);
      return item;
    }));
    let first = 0;
    show(first);
    if (examples.length <= exampleCount || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    rotation = setInterval(() => {
      if (at("ideas").matches(":hover, :focus-within") || at("ideas").hidden) return;
      first = first + exampleCount < examples.length ? first + exampleCount : 0;
      show(first);
    }, exampleTime);
  }

  document.body.classList.toggle("empty", addressed() === null); // before the models are loaded
  if (addressed() === null && window === top) boxes[0].input.focus(); // a page that embeds this one keeps its focus
  learnModels();
})();
