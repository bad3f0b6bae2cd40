"use strict";
/* cap2im.api (see page.js) of an exported model, which a worker draws in the browser. All files are scripts, because a page that was opened from
   a file must not fetch any: model.js holds what captions need and the worker; graphs.js and runtime.js, which are large, the weights and
   onnxruntime-web. */
cap2im.api = (() => {
  const limits = { samples: 16, characters: 1000 };
  cap2im.exported = { files: {} }; // what the scripts add to

  /* Loads a script that puts something into cap2im.exported. */
  function load(name) {
    const script = Object.assign(document.createElement("script"), { src: `page/${name}` });
    return new Promise((resolve, reject) => {
      script.addEventListener("load", resolve);
      script.addEventListener("error", () => reject(new cap2im.Refusal(0, `The file ${script.src} is missing or cannot be loaded.`)));
      document.head.append(script);
    }).finally(() => script.remove());
  }

  /* A function that returns one promise for all of its calls, and a new one after a failure. */
  function once(make) {
    let promise = null;
    return () => (promise ??= make().catch((error) => {
      promise = null;
      throw error;
    }));
  }

  const model = once(async () => {
    await load("model.js");
    return cap2im.exported.model;
  });

  const answers = new Map(); // number of a call -> function that takes its messages
  const worker = once(async () => {
    const { worker: code, ...rest } = await model();
    const started = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    started.onmessage = ({ data }) => answers.get(data.call)?.(data);
    started.onerror = ({ message }) => answers.forEach((take) => take({ problem: { status: 500, detail: `The drawing program stopped: ${message}` } }));
    started.postMessage({ model: rest });
    return started;
  });

  const files = once(async () => {
    const [started] = await Promise.all([worker(), load("graphs.js"), load("runtime.js")]);
    started.postMessage({ files: cap2im.exported.files });
    cap2im.exported.files = {};
  });
  const early = () => files().catch(() => {}); // a drawing says what is wrong
  if (window === top) early();
  else addEventListener("focusin", early, { once: true }); // readers of a page that embeds this one may not want to draw

  let latest = 0; // number of the last call

  /* Yields what a function of the worker posts. Throws Refusal, and the reason of an aborted `signal`. */
  async function* call(name, argument, signal) {
    const started = await worker(), number = ++latest, messages = [];
    let wake = () => {};
    const take = (message) => {
      messages.push(message);
      wake();
    };
    const abort = () => take({ aborted: true });
    answers.set(number, take);
    signal?.addEventListener("abort", abort);
    started.postMessage({ call: number, name, argument });
    let ended = false;
    try {
      for (;;) {
        if (signal?.aborted) throw signal.reason;
        while (messages.length) {
          const { value, done, problem, aborted } = messages.shift();
          ended = done || problem !== undefined;
          if (aborted) throw signal.reason;
          if (problem !== undefined) throw new cap2im.Refusal(problem.status, problem.detail);
          if (done) return;
          yield value;
        }
        await new Promise((resolve) => { wake = resolve; });
      }
    } finally {
      answers.delete(number);
      signal?.removeEventListener("abort", abort);
      if (!ended) started.postMessage({ call: number, stop: true });
    }
  }

  /* Returns what a function of the worker posts once. */
  async function result(name, argument, signal) {
    let result;
    for await (result of call(name, argument, signal));
    return result;
  }

  async function* draw(request, signal) {
    const aborted = new Promise((_, reject) => { signal.addEventListener("abort", () => reject(signal.reason)); });
    await Promise.race([files(), aborted]);
    yield* call("draw", request, signal);
  }

  async function file(request) {
    await files();
    const { bytes, type } = await result("file", request);
    return new Blob([bytes], { type });
  }

  return {
    models: async () => {
      const { about } = await model();
      return { models: [about], default: about.name, limits };
    },
    words: () => result("words"),
    read: (caption, model, signal) => result("read", { caption }, signal),
    draw, file,
  };
})();
