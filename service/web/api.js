// The HTTP contract, as the pages use it. The key stays in this tab: sessionStorage ends with it.

const KEY = "rmadapter.key";

export class Refused extends Error {
  /** `retryAfter`: seconds, where the service said so. */
  constructor(status, problem, retryAfter = null) {
    super(problem.detail || `The service answered ${status}.`);
    this.status = status;
    this.errors = problem.errors || [];
    this.retryAfter = retryAfter;
  }
}

const LONG_SECONDS = 60; // who is sent away for longer has used up a quota
const SILENT_SECONDS = 45; // an open stream says something every 15
const AGAIN_SECONDS = 2; // where the service names no pause

/** Whether the same call may work in a moment. */
export function temporary(error) {
  const busy = error.status === 429 && (error.retryAfter ?? 0) <= LONG_SECONDS;
  return busy || [0, 502, 503, 504].includes(error.status);
}

/** Waits as long as the service asked for after an error, or a moment. */
export function pause(error, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * (error?.retryAfter ?? AGAIN_SECONDS));
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Repeats a call that may be repeated, while what stops it is temporary. */
export async function patiently(action, times = 5) {
  for (let left = times; ; left -= 1) {
    try {
      return await action();
    } catch (error) {
      if (!left || !temporary(error)) throw error;
      await pause(error);
    }
  }
}

/** Whether the service can answer again. It needs no key. */
export async function answers() {
  return fetch(address("/readyz")).then((response) => response.ok, () => false);
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** The address of a path of the API: beside this page, so that a proxy's prefix is kept. */
export function address(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI);
}

async function send(path, options = {}) {
  const headers = { Authorization: `Bearer ${key.get()}`, ...options.headers };
  let response;
  try {
    response = await fetch(address(path), { ...options, headers });
  } catch {
    throw new Refused(0, { detail: "The service does not answer. Is it running?" });
  }
  if (!response.ok) {
    const after = Number.parseInt(response.headers.get("retry-after"), 10);
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem, Number.isNaN(after) ? null : after);
  }
  return response;
}

export async function call(method, path, json) {
  const body = json === undefined
    ? {} : { body: JSON.stringify(json), headers: { "Content-Type": "application/json" } };
  const response = await send(path, { method, ...body });
  return response.status === 204 ? null : response.json();
}

export async function post(path, form) {
  return (await send(path, { method: "POST", body: form })).json();
}

/** Every item of a list, or its first `most`. */
export async function all(path, most = Infinity) {
  const items = [];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: Math.min(1000, most) });
    if (cursor) query.set("cursor", cursor);
    const page = await call("GET", `${path}${path.includes("?") ? "&" : "?"}${query}`);
    items.push(...page.items);
    cursor = page.cursor;
  } while (cursor && items.length < most);
  return { items, more: cursor !== null };
}

/** One stream of a job's server-sent events. EventSource cannot send a key: it is read by hand. */
async function* events(job, signal) {
  const response = await send(`/v1/jobs/${job}/events`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await heard(reader);
    if (done) return;
    text += value;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}

async function heard(reader) {
  let timer;
  const silence = new Promise((_, reject) => { timer = setTimeout(reject, 1000 * SILENT_SECONDS); });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch {
    reader.cancel().catch(() => {});
    throw new Refused(0, { detail: "The connection to the service broke." });
  } finally {
    clearTimeout(timer);
  }
}

/** A job whenever it changed, until it ended: `onState(job)`. A service that stops or does not
 * answer is asked again after a pause; meanwhile `onTrouble(error)`, then `onTrouble(null)`. */
export async function follow(job, signal, onState, onTrouble) {
  while (!signal.aborted) {
    let trouble = null;
    try {
      for await (const state of events(job, signal)) {
        if (signal.aborted) return;
        onTrouble(null);
        onState(state);
        if (state.finished_at) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!temporary(error)) throw error;
      onTrouble(trouble = error);
    }
    await pause(trouble, signal);
  }
}

/** A picture that needs the key, as an address that this page alone can read. */
export async function picture(path) {
  return URL.createObjectURL(await (await send(path)).blob());
}

/** The bytes of a picture. */
export async function pictureBytes(path) {
  return (await send(path)).blob();
}

/** Shows a picture that needs the key, once it comes into view. */
export function lazyPicture(img, path) {
  const watch = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    try {
      const url = await patiently(() => picture(path));
      img.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
      img.src = url;
    } catch {
      img.alt = `${img.alt} (not there any more)`;
    }
  }, { rootMargin: "200px" });
  watch.observe(img);
}
