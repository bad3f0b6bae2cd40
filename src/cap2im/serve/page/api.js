"use strict";
/* cap2im.api (see page.js) of a server. */
cap2im.api = (() => {
  const keyName = "cap2im-key"; // in this tab only, until it is closed
  const key = { has: () => sessionStorage.getItem(keyName) !== null, keep: (text) => sessionStorage.setItem(keyName, text) };

  /* Returns the response to a GET, or to a POST of `body`. Throws Refusal, and the reason of an aborted `signal`. */
  async function ask(path, { body, signal } = {}) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key.has()) headers.Authorization = `Bearer ${sessionStorage.getItem(keyName)}`;
    let response;
    try {
      response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body), signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new cap2im.Refusal(0, "The server does not respond. It may have been stopped, or the network is down.");
    }
    if (response.ok) return response;
    const { detail } = await response.json().catch(() => ({}));
    const after = Number.parseInt(response.headers.get("Retry-After"), 10);
    const message = typeof detail === "string" ? detail : `The server returned status ${response.status}.`;
    throw new cap2im.Refusal(response.status, message, Number.isNaN(after) ? null : after);
  }

  /* Yields the server-sent events of a response as {event, data}, with data parsed as JSON, until the connection ends
     (https://html.spec.whatwg.org/#event-stream-interpretation). */
  async function* events(response, signal) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", event = "", data = [];
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (signal.aborted) throw error;
        return { done: true };
      });
      if (done) return; // an event without its empty line is incomplete
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // a \r at the end may be half of an \r\n
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: JSON.parse(data.join("\n")) };
          [event, data] = ["", []];
          continue;
        }
        const colon = line.indexOf(":"), name = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "event") event = text;
        else if (name === "data") data.push(text);
      }
    }
  }

  async function* draw(body, signal) {
    yield* events(await ask("v1/draw/stream", { body, signal }), signal);
  }

  /* The page's file of a caption has all samples, a picture one. A server with a store returns the URL of the file. */
  async function file(body) {
    const [{ page, drawings }] = (await (await ask("v1/draw", { body })).json()).results;
    const { url, base64, media_type: type } = body.format === "html" ? page : drawings[0].image;
    return url ?? new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type });
  }

  return {
    models: async () => (await ask("v1/models")).json(),
    words: async (model) => (await (await ask(`v1/models/${encodeURIComponent(model)}/words`)).json()).words,
    read: async (caption, model, signal) => (await ask("v1/read", { body: { caption, model }, signal })).json(),
    draw, file, key, events,
  };
})();
