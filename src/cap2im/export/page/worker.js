"use strict";
/* The worker of the page: reads captions, and draws them with onnxruntime-web.

   Messages to it: {model}: what model.js holds; {files}: base64 of files by name, all but ort.mjs gzip-compressed; {call, name, argument}: calls
   a function of `calls`; {call, stop: true}. For a call it posts {call, value} any number of times, and in the end {call, done: true} or
   {call, problem: {status, detail}}. A tensor of all rows has the rows (caption by caption, sample by sample) as its first axis. */
(() => {
  const mostSuggested = 8; // unknown words of a caption that get suggestions
  const sheetHeight = 8192; // pixels of a sheet of canvases
  const largeSide = 480; // pixels of an enlarged picture
  const rounded = (numbers, places) => Array.from(numbers, (number) => Number(number.toFixed(places)));

  let about, template, graphs, vocabulary; // from model.js
  let receiveFiles; // resolves `files`
  const files = new Promise((resolve) => { receiveFiles = resolve; });
  const stopped = new Set(); // calls that nobody waits for

  class Problem extends Error {
    constructor(status, detail) {
      super(detail);
      this.status = status;
    }
  }

  // Loading

  async function unpacked(name) {
    const text = atob((await files)[name]), bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
    return new Uint8Array(await new Response(new Response(bytes).body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }

  /* Resolves to {ort} and the session of each graph by its name. A page that was opened from a file must not fetch any, so onnxruntime-web gets
     its parts as bytes, and its script is a data URI: WebKit lets a worker of such a page neither import nor read a Blob. It uses one thread: more
     need headers that few hosts send, and would not make small models faster. */
  async function load() {
    const [wasm, ...contents] = await Promise.all(["ort.wasm", ...graphs].map(unpacked));
    const ort = await import(`data:text/javascript;base64,${(await files)["ort.mjs"]}`);
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm });
    const loaded = { ort }, options = { graphOptimizationLevel: "disabled", logSeverityLevel: 3 }; // graphs were optimised at the export; errors only
    for (const [n, name] of graphs.entries()) loaded[name.replace(".onnx", "")] = await ort.InferenceSession.create(contents[n], options);
    return loaded;
  }
  let loading; // promise of `load`

  /* Runs a graph on those of the tensors that it takes. */
  const run = (session, tensors) => session.run(Object.fromEntries(session.inputNames.map((name) => [name, tensors[name]])));

  // Drawing

  /* Lets messages arrive between two glimpses; throws if one has stopped the call. */
  const { port1, port2 } = new MessageChannel();
  async function pause(call) {
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    if (stopped.has(call)) throw new Problem(0, "The drawing was stopped.");
  }

  /* The encoded captions of all rows, by the names of the tensors. */
  async function encoded({ ort, text }, rows) {
    if (text === undefined) return {};
    const shape = [rows.length, about.words], numbers = new BigInt64Array(shape[0] * shape[1]), mask = new Uint8Array(numbers.length);
    rows.forEach(({ tokens }, row) => tokens.numbers.forEach((number, n) => {
      numbers[row * about.words + n] = BigInt(number);
      mask[row * about.words + n] = 1;
    }));
    const inputs = { tokens: new ort.Tensor("int64", numbers, shape), mask: new ort.Tensor("bool", mask, shape) };
    return { ...await run(text, inputs), mask: inputs.mask };
  }

  /* One glimpse of a row: {canvas: Uint8Array [A, A, C], attention: [L] or null, box: [4] or null}, from picture [C, A, A] in 0..1, and
     weights and box if there are any. */
  function glimpseOf({ tokens }, picture, weights, box) {
    const { colours } = about, pixels = picture.length / colours, canvas = new Uint8Array(picture.length);
    for (let c = 0; c < colours; c++) for (let n = 0; n < pixels; n++) canvas[n * colours + c] = Math.round(255 * picture[c * pixels + n]);
    return { canvas, attention: weights ? rounded(weights.subarray(0, tokens.words.length), 4) : null, box: box ? rounded(box, 2) : null };
  }

  /* The nth of `count` equal parts of a tensor's data; undefined without a tensor. */
  function part(tensor, n, count) {
    const size = tensor && tensor.data.length / count;
    return tensor?.data.subarray(n * size, (n + 1) * size);
  }

  /* Yields the glimpses of all rows, [{tokens, seed}], by a graph that draws one glimpse. */
  async function* glimpseByGlimpse({ ort, glimpse, ...loaded }, rows, call) {
    const [steps, width] = about.noise_shape, count = rows.length;
    const context = await encoded({ ort, ...loaded }, rows), noise = rows.map(({ seed }) => cap2im.pictureNoise(seed, steps * width));
    let state = Object.fromEntries(["canvas", "hidden", "cell"].map((name) => {
      const [, ...sizes] = glimpse.inputMetadata.find((each) => each.name === name).shape;
      return [name, new ort.Tensor("float32", new Float32Array(sizes.reduce((a, b) => a * b, count)), [count, ...sizes])];
    }));
    for (let t = 0; t < steps; t++) {
      const own = new Float32Array(count * width);
      noise.forEach((each, n) => own.set(each.subarray(t * width, (t + 1) * width), n * width));
      const inputs = { later: new ort.Tensor("float32", [t > 0 ? 1 : 0], [1]), noise: new ort.Tensor("float32", own, [count, width]) };
      const made = await run(glimpse, { ...context, ...state, ...inputs });
      state = { canvas: made.next_canvas, hidden: made.next_hidden, cell: made.next_cell };
      yield rows.map((row, n) => glimpseOf(row, ...[made.picture, made.weights, made.box].map((each) => part(each, n, count))));
      await pause(call);
    }
  }

  /* Yields the glimpses of all rows, by a graph that draws whole pictures; one row after the other, for the memory. */
  async function* wholePictures({ ort, picture, ...loaded }, rows, call) {
    const drawn = [];
    for (const row of rows) {
      const noise = new ort.Tensor("float32", cap2im.pictureNoise(row.seed, about.noise_shape[0] * about.noise_shape[1]), [1, ...about.noise_shape]);
      drawn.push(await run(picture, { ...await encoded({ ort, ...loaded }, [row]), noise }));
      await pause(call);
    }
    for (let t = 0; t < about.glimpses; t++) {
      yield rows.map((row, n) => glimpseOf(row, ...[drawn[n].pictures, drawn[n].weights].map((each) => part(each, t, about.glimpses))));
    }
  }

  /* The results of a request: [{caption, tokens, rows: one for each seed}]. */
  function requested({ captions, samples, seed }) {
    return captions.map((caption) => {
      let tokens;
      try {
        tokens = vocabulary.encode(caption, about.reads_words ? about.words : Infinity, !about.reads_words);
      } catch (error) {
        throw new Problem(422, error.message);
      }
      return { caption, tokens, rows: Array.from({ length: samples }, (_, k) => ({ tokens, seed: seed + k, glimpses: [] })) };
    });
  }

  /* Draws results, and yields the number of each glimpse when all rows have it in their `glimpses`. */
  async function* drawn(results, call) {
    const loaded = await (loading ??= load().catch((error) => {
      loading = undefined; // to be tried again
      throw error;
    }));
    const rows = results.flatMap((result) => result.rows);
    let t = 0;
    for await (const glimpses of (loaded.glimpse === undefined ? wholePictures : glimpseByGlimpse)(loaded, rows, call)) {
      rows.forEach((row, n) => row.glimpses.push(glimpses[n]));
      yield t++;
    }
  }

  // Files

  const picture = (canvas) => ({ width: about.side, height: about.side, colours: about.colours, data: canvas });
  const series = (glimpses, name) => (glimpses[0][name] === null ? null : glimpses.map((each) => each[name]));

  /* The canvases of a drawing in one picture, row by row, as data URI. */
  async function sheet(glimpses) {
    const { side, colours } = about, columns = Math.ceil(glimpses.length / Math.max(1, Math.floor(sheetHeight / side)));
    const width = columns * side, height = Math.ceil(glimpses.length / columns) * side, data = new Uint8Array(width * height * colours);
    glimpses.forEach(({ canvas }, t) => {
      for (let y = 0; y < side; y++) {
        const start = ((Math.floor(t / columns) * side + y) * width + (t % columns) * side) * colours;
        data.set(canvas.subarray(y * side * colours, (y + 1) * side * colours), start);
      }
    });
    return { sheet: cap2im.dataURI(await cap2im.png({ width, height, colours, data }), "png"), columns };
  }

  /* What the viewer's `render` takes. */
  async function viewerData({ caption, tokens, rows }) {
    return {
      caption, words: about.attends ? tokens.words : [], model: about.name, width: about.side, height: about.side, glimpses: about.glimpses, sizes: [],
      samples: await Promise.all(rows.map(async ({ seed, glimpses }) => ({
        seed, ...await sheet(glimpses), attention: series(glimpses, "attention"), boxes: series(glimpses, "box"), maps: [],
      }))),
    };
  }

  /* Returns the HTML page of one result. */
  async function savedPage(result) {
    const content = JSON.stringify(await viewerData(result)).replace(/[<>&]/g, (sign) => `\\u00${sign.charCodeAt(0).toString(16)}`);
    return new TextEncoder().encode(template.before + content + template.after);
  }

  // Calls

  const calls = {
    async* words() {
      yield [...vocabulary.plain];
    },

    async* read({ caption }) {
      const words = vocabulary.split(caption), unknown = about.reads_words ? vocabulary.unknownWords(words) : [];
      yield { words, unknown: unknown.map((word, n) => ({ word, nearest: n < mostSuggested ? vocabulary.nearest(word) : [] })) };
    },

    async* draw(request, call) {
      const results = requested(request), { name: model, side: width, side: height, glimpses } = about;
      const starts = results.map(({ caption, tokens, rows }) => ({ caption, words: tokens.words, width, height, glimpses, seeds: rows.map(({ seed }) => seed) }));
      yield { event: "start", data: { model, results: starts } };
      for await (const t of drawn(results, call)) {
        for (const [result, { rows }] of results.entries()) {
          const samples = await Promise.all(rows.map(async (row) => {
            const { canvas, attention, box } = row.glimpses[t];
            return { image: cap2im.dataURI(await cap2im.png(picture(canvas)), "png"), attention, box };
          }));
          yield { event: "glimpse", data: { result, glimpse: t, samples } };
        }
      }
      for (const [index, result] of results.entries()) yield { event: "drawn", data: { result: index, data: await viewerData(result) } };
      yield { event: "end", data: {} };
    },

    async* file({ format, enlarge, ...request }, call) {
      const [result] = requested(request);
      for await (const _ of drawn([result], call));
      const [{ seed, glimpses }] = result.rows, provenance = { caption: result.caption, seed, model: about.name };
      if (format === "html") {
        yield { type: "text/html", bytes: await savedPage(result) };
      } else if (format === "gif") {
        const comment = JSON.stringify(provenance).replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
        yield { type: "image/gif", bytes: cap2im.gif(glimpses.map(({ canvas }) => picture(canvas)), series(glimpses, "box"), comment) };
      } else {
        const scale = enlarge ? Math.max(1, Math.floor(largeSide / about.side)) : 1;
        yield { type: "image/png", bytes: await cap2im.png(cap2im.enlarge(picture(glimpses.at(-1).canvas), scale), provenance) };
      }
    },
  };

  onmessage = async ({ data: { model, files: received, call, name, argument, stop } }) => {
    if (model !== undefined) {
      ({ about, template, graphs } = model);
      vocabulary = new cap2im.Vocabulary(about.vocabulary, model.characters);
    } else if (received !== undefined) {
      receiveFiles(received);
      loading = load();
      loading.catch(() => { loading = undefined; }); // the next drawing tries again, and says what is wrong
    } else if (stop) {
      stopped.add(call);
    } else {
      try {
        for await (const value of calls[name](argument, call)) postMessage({ call, value });
        postMessage({ call, done: true });
      } catch (error) {
        postMessage({ call, problem: { status: error.status ?? 500, detail: error.message } });
      }
      stopped.delete(call);
    }
  };
})();
