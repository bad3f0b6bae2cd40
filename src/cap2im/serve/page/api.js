/* Requests to the server, with errors whose messages can be shown. */

const keyName = "cap2im-key"; // in this tab only, until it is closed

export const keepKey = (key) => sessionStorage.setItem(keyName, key);
export const hasKey = () => sessionStorage.getItem(keyName) !== null;

/* An error response, or none (status 0). after: seconds to wait before a retry, or null. */
export class Refusal extends Error {
  constructor(status, detail, after = null) {
    super(detail);
    Object.assign(this, { status, after });
  }
}

/* Returns the response to a GET, or to a POST of `body`. Throws Refusal, and the reason of an aborted `signal`. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const key = sessionStorage.getItem(keyName);
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(0, "The server does not respond. It may have been stopped, or the network is down.");
  }
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  const after = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new Refusal(response.status, typeof detail === "string" ? detail : `The server returned status ${response.status}.`, Number.isNaN(after) ? null : after);
}

/* Yields the server-sent events of a response as {event, data}, with data parsed as JSON, until the connection ends
   (https://html.spec.whatwg.org/#event-stream-interpretation). */
export async function* events(response, signal) {
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
