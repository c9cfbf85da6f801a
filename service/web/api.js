// The HTTP contract, as the pages use it. The key stays in this tab: sessionStorage ends with it.

const KEY = "rmadapter.key";

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `The service answered ${status}.`);
    this.status = status;
    this.errors = problem.errors || [];
  }
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
    throw new Refused(response.status, await response.json().catch(() => ({})));
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

/** A job's server-sent events. EventSource cannot send a key, so the stream is read by hand. */
export async function* events(job, signal) {
  for (;;) {
    const response = await send(`/v1/jobs/${job}/events`, { signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (!data.length) continue;
        const state = JSON.parse(data.map((line) => line.slice(5)).join("\n"));
        yield state;
        if (state.finished_at) return;
      }
    }
  }
}

/** Shows a picture that needs the key, once it comes into view. */
export function lazyPicture(img, path) {
  const watch = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    try {
      const url = URL.createObjectURL(await (await send(path)).blob());
      img.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
      img.src = url;
    } catch {
      img.alt = `${img.alt} (not there any more)`;
    }
  }, { rootMargin: "200px" });
  watch.observe(img);
}
