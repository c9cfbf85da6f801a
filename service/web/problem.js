// Why something failed, with a way on: a button to try again, and recovery without one.

import { answers, pause, temporary } from "./api.js";
import { h } from "./dom.js";

/** A box that is empty and hidden until then. */
export function problemBox() {
  const box = h("div", { class: "problem", role: "alert", hidden: true });
  let current = null;

  function clear() {
    current = null;
    box.hidden = true;
    box.replaceChildren();
  }

  /** `again()` tries the same once more. `safe`: it may do so by itself when the service is back. */
  function show(error, again = null, safe = false) {
    current = error;
    const details = (error.errors || []).map((e) => h("li", {}, `${e.field}: ${e.reason}`));
    const waits = again && temporary(error);
    box.replaceChildren(
      h("p", {}, error.message),
      details.length ? h("ul", {}, details) : "",
      waits ? h("p", {}, safe ? "This page goes on by itself when the service is back."
        : "This page says when the service is back.") : "",
      again ? h("button", { type: "button", onclick: () => { clear(); again(); } }, "Try again") : "",
    );
    box.hidden = false;
    if (waits) recover(error, again, safe);
  }

  async function recover(error, again, safe) {
    const waiting = () => current === error && box.isConnected;
    do { await pause(error); } while (waiting() && !await answers());
    if (!waiting()) return;
    clear();
    if (safe) again();
    else show(new Error("The service is back."), again);
  }

  return { box, clear, show };
}
