// Asking for a fit, and watching it.

import { call, events } from "./api.js";
import { lossCurve } from "./charts.js";
import { announce, h, plural, problemBox } from "./dom.js";

/** `counts`: photos by class. */
export function fitForm(set, counts) {
  const smallest = Math.min(...counts.values());
  if (counts.size < 2) {
    return [h("p", { class: "hint" }, "A classifier needs photos of two classes at least.")];
  }
  const problem = problemBox();
  const suggested = set.name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64) || "mine";
  const name = h("input", { id: "adapter", required: true, value: suggested, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", maxlength: "64" });
  const publish = h("select", { id: "publish" },
    h("option", { value: "true" }, "when it is done"),
    h("option", { value: "if_better" }, "only if it is better"),
    h("option", { value: "false" }, "later, by hand"));
  return [h("form", {
    class: "card",
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        const wanted = publish.value === "if_better" ? "if_better" : publish.value === "true";
        const made = await call("POST", "/v1/jobs", { dataset: set.dataset, adapter: name.value, publish: wanted });
        location.hash = `#/fits/${made.job}`;
      } catch (error) { problem.show(error); }
    },
  },
  h("h2", {}, "Fit a classifier"),
  h("div", { class: "fields" },
    h("div", {}, h("label", { for: "adapter" }, "Its name"), name),
    h("div", {}, h("label", { for: "publish" }, "Publish"), publish),
    h("button", { class: "primary" }, "Fit")),
  smallest < 5 ? h("p", { class: "hint" }, `The smallest class has ${plural(smallest, "photo")}; the accuracy means more from five photos per class on.`) : null,
  problem.box)];
}

export async function job({ argument: id, signal }) {
  const first = await call("GET", `/v1/jobs/${id}`);
  const words = h("p", { class: "lead", "aria-live": "polite" });
  const meter = h("progress", { max: "1", value: 0, "aria-label": "Fit" });
  const curve = lossCurve();
  const loss = h("figure", {}, curve.picture, h("figcaption", {}, "Loss by step: lower is better"));
  const after = h("div", {});
  const problem = problemBox();
  const cancel = h("button", { class: "quiet danger", onclick: async () => {
    try { await call("DELETE", `/v1/jobs/${id}`); } catch (error) { problem.show(error); }
  } }, "Stop this fit");

  function render(state) {
    const { progress } = state;
    const saying = {
      queued: "Waiting for a worker.",
      running: progress ? `Epoch ${progress.epoch} of ${progress.epochs}` : "Reading the photos.",
      succeeded: `Version ${state.version} is ready${state.published ? " and published" : ""}.`,
      failed: "The fit failed.",
      cancelled: "The fit was stopped.",
    }[state.state];
    words.textContent = saying;
    if (progress) {
      meter.value = progress.step / progress.steps;
      curve.add(progress.step, progress.steps, progress.loss);
    }
    if (!state.finished_at) return;
    announce(saying);
    cancel.hidden = true;
    meter.hidden = state.state !== "succeeded";
    meter.value = 1;
    if (state.error) problem.show(new Error(state.error));
    const links = [h("a", { class: "button", href: `#/data/${state.dataset}` }, "Back to the photos")];
    if (state.state === "succeeded") {
      links.unshift(
        h("a", { class: "button primary", href: `#/classifiers/${encodeURIComponent(state.adapter)}` }, "See how good it is"),
        h("a", { class: "button", href: `#/try/${encodeURIComponent(state.adapter)}` }, "Try it"));
    }
    after.replaceChildren(h("div", { class: "row" }, links));
  }

  render(first);
  if (!first.finished_at) watch(id, signal, render, problem);
  return {
    title: `Fit of ${first.adapter}`,
    content: [h("h1", {}, `Fit of ${first.adapter}`), words, meter, loss, problem.box, after, cancel],
  };
}

async function watch(id, signal, render, problem) {
  try {
    for await (const state of events(id, signal)) render(state);
  } catch (error) {
    if (!signal.aborted) problem.show(error);
  }
}
