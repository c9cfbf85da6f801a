// Fits: asking for one, their list, and one that is watched.

import { all, call, follow, patiently, pause, temporary } from "./api.js";
import { lossCurve } from "./charts.js";
import { announce, h, interval, plural, rightOf, when } from "./dom.js";
import { problemBox } from "./problem.js";
import { progressWords, share } from "./progress.js";

const SHOWN = 30; // fits of the list at first, and with each press of the button
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const open = (job) => !job.finished_at;

/** All fits that the service keeps, the newest first. */
export async function allFits() {
  return (await all("/v1/jobs")).items.sort((a, b) => b.created_at.localeCompare(a.created_at));
}

export async function fits({ signal }) {
  const [jobs, { items: sets }] = await Promise.all([allFits(), all("/v1/datasets")]);
  const names = new Map(sets.map((set) => [set.dataset, set.name]));
  const [running, ended] = [jobs.filter(open), jobs.filter((job) => !open(job))];
  const list = h("ul", { class: "cards wide" }, ended.slice(0, SHOWN).map((job) => h("li", {}, fitCard(job, names))));
  const more = h("button", { class: "quiet", hidden: ended.length <= SHOWN, onclick: () => {
    const some = ended.slice(list.children.length, list.children.length + SHOWN);
    list.append(...some.map((job) => h("li", {}, fitCard(job, names))));
    more.hidden = list.children.length === ended.length;
  } }, "Show more");
  return {
    title: "Fits",
    content: [
      h("h1", {}, "Fits"),
      jobs.length ? null : h("p", {}, "None yet. ", h("a", { href: "#/data" }, "Bring photos"), " and fit a classifier on them."),
      running.length ? h("section", { "aria-label": "Running" }, h("h2", {}, "Running"), openFits(running, names, signal)) : null,
      ended.length ? h("section", { "aria-label": "Ended" }, h("h2", {}, "Ended"), list, more) : null,
    ],
  };
}

/** Cards of open fits, kept up to date while the page is there; none: an empty element. */
export function openFits(jobs, names, signal) {
  return h("ul", { class: "cards wide" }, jobs.filter(open).map((job) => {
    const place = h("li", {}, fitCard(job, names));
    keep(job, place, names, signal);
    return place;
  }));
}

async function keep(job, place, names, signal) {
  let now = job;
  while (open(now) && !signal.aborted) {
    let trouble = null;
    try {
      now = await call("GET", `/v1/jobs/${job.job}`);
    } catch (error) {
      if (!temporary(error)) return; // forgotten, or the key has ended
      trouble = error;
    }
    if (signal.aborted) return;
    const focused = place.contains(document.activeElement);
    place.replaceChildren(fitCard(now, names, trouble));
    if (focused) place.querySelector("a").focus();
    await pause(trouble, signal);
  }
}

function fitCard(job, names, trouble = null) {
  const words = {
    queued: () => progressWords(job),
    running: () => progressWords(job),
    succeeded: () => `Version ${job.version}${job.metrics?.adapted ? `, right on ${rightOf(job.metrics.adapted)} it had not seen` : ""}`,
    failed: () => `Failed: ${job.error}`,
    cancelled: () => "Stopped",
  }[job.state]();
  return h("a", { class: "card link", href: `#/fits/${job.job}` },
    h("strong", {}, job.adapter),
    h("span", { class: job.state === "failed" ? "failed" : null }, trouble ? "The service does not answer; asking again." : words),
    job.state === "running" ? h("progress", { max: "1", value: share(job), "aria-label": `Fit of ${job.adapter}` }) : null,
    h("span", { class: "hint" }, `On ${names.get(job.dataset) ?? "photos deleted since"}, ${when(job.created_at)}`));
}

/** `counts`: photos by class. `jobs`: the fits so far. */
export function fitForm(set, counts, adapters, jobs) {
  const smallest = Math.min(...counts.values());
  if (counts.size < 2) {
    return [h("p", { class: "hint" }, "A classifier needs photos of two classes at least.")];
  }
  const problem = problemBox();
  const before = jobs.find((job) => job.dataset === set.dataset)?.adapter;
  const fallback = set.name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64) || "mine";
  const outcome = h("p", { class: "hint", id: "outcome", "aria-live": "polite" });
  const name = h("input", { id: "adapter", required: true, value: before ?? fallback, maxlength: "64", list: "adapters",
    "aria-describedby": "outcome", autocomplete: "off", oninput: tell });
  const publish = h("select", { id: "publish" },
    h("option", { value: "true" }, "when it is done"),
    h("option", { value: "if_better" }, "only if it is better"),
    h("option", { value: "false" }, "later, by hand"));
  const kind = h("select", { id: "fit" },
    h("option", { value: "full" }, "at once, then better"),
    h("option", { value: "instant" }, "at once, no training"));
  function tell() {
    const known = adapters.find((a) => a.adapter === name.value);
    name.setCustomValidity(NAME.test(name.value) ? ""
      : "Letters without accents, digits, hyphens, dots and underscores; a letter or digit first.");
    outcome.textContent = known ? `A new version of ${known.adapter}, beside its ${plural(known.versions.length, "version")}.`
      : "A new classifier of this name.";
  }
  tell();
  const start = async () => {
    problem.clear();
    const wanted = publish.value === "if_better" ? "if_better" : publish.value === "true";
    try {
      const made = await call("POST", "/v1/jobs", { dataset: set.dataset, adapter: name.value, publish: wanted, fit: kind.value });
      location.hash = `#/fits/${made.job}`;
    } catch (error) { problem.show(error, start); }
  };
  return [h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); start(); } },
    h("h2", {}, "Fit a classifier"),
    h("div", { class: "fields" },
      h("div", {}, h("label", { for: "adapter" }, "Its name"), name,
        h("datalist", { id: "adapters" }, adapters.map((a) => h("option", { value: a.adapter })))),
      h("div", {}, h("label", { for: "fit" }, "How"), kind),
      h("div", {}, h("label", { for: "publish" }, "Publish"), publish),
      h("button", { class: "primary" }, "Fit")),
    outcome,
    smallest < 5 ? h("p", { class: "hint" }, `The smallest class has ${plural(smallest, "photo")}; the accuracy means more from five photos per class on.`) : null,
    problem.box)];
}

export async function job({ argument: id, signal }) {
  const first = await call("GET", `/v1/jobs/${id}`);
  const words = h("p", { class: "lead", "aria-live": "polite" });
  const meter = h("progress", { max: "1", value: 0, "aria-label": "Fit" });
  const curve = lossCurve();
  const loss = h("details", { hidden: true }, h("summary", {}, "The loss, step by step"), curve.figure);
  const after = h("div", {});
  const meanwhile = h("p", { hidden: true, "aria-live": "polite" });
  const problem = problemBox();
  const trouble = h("p", { class: "hint", "aria-live": "polite" });
  const cancel = h("button", { class: "quiet danger", onclick: async () => {
    try { await patiently(() => call("DELETE", `/v1/jobs/${id}`)); } catch (error) { problem.show(error); }
  } }, "Stop this fit");

  function render(state) {
    const saying = state.finished_at ? ending(state) : progressWords(state);
    if (words.textContent !== saying) words.textContent = saying;
    meter.value = share(state);
    if (state.progress && !state.finished_at) {
      curve.add(state.progress);
      loss.hidden = false;
    }
    if (state.instant_version && meanwhile.hidden) {
      const place = `${encodeURIComponent(state.adapter)}/${state.instant_version}`;
      meanwhile.replaceChildren(`Instant version ${state.instant_version} answers already. `,
        h("a", { href: `#/try/${place}` }, "Try it"));
      meanwhile.hidden = false;
    }
    if (!state.finished_at) return;
    meanwhile.hidden = true;
    announce(saying);
    cancel.hidden = meter.hidden = true;
    if (state.error) problem.show(new Error(state.error));
    after.replaceChildren(...whatNext(state));
  }

  render(first);
  if (!first.finished_at) {
    follow(id, signal, render, (error) => {
      trouble.textContent = error ? `${error.message} The fit goes on; this page asks again.` : "";
    }).catch((error) => problem.show(error));
  }
  return {
    title: `Fit of ${first.adapter}`,
    content: [
      h("nav", { "aria-label": "Way back", class: "back" }, h("a", { href: "#/fits" }, "Fits")),
      h("h1", {}, `Fit of ${first.adapter}`), words, meter, meanwhile, trouble, problem.box, after, cancel, loss,
    ],
  };
}

function ending(state) {
  const instant = state.instant_version;
  const stays = instant ? ` Instant version ${instant} was published.` : "";
  if (state.state === "cancelled") return `The fit was stopped.${stays}`;
  if (state.state === "failed") return `The fit failed.${stays}`;
  if (state.published) return `Version ${state.version} is ready and live.`;
  if (instant) return `Version ${state.version} is ready. It is not published: instant version ${instant} was right on more photos, or another one is live.`;
  const why = state.publish === "if_better" ? ", for it is not better than the live one" : "";
  return `Version ${state.version} is ready. It is not published${why}.`;
}

function whatNext(state) {
  const back = h("a", { class: "button", href: `#/data/${state.dataset}` }, "Back to the photos");
  if (state.state !== "succeeded") return [h("div", { class: "row" }, back)];
  const place = `${encodeURIComponent(state.adapter)}/${state.version}`;
  const { adapted } = state.metrics;
  return [
    adapted ? h("p", {}, h("strong", {}, `${rightOf(adapted)} it had not seen`), ` were classified right ${interval(adapted)}.`) : null,
    adapted ? h("p", { class: "hint" }, "For this count, each photo was classified by a fit on the others; then the version was fitted on all.") : null,
    h("div", { class: "row" },
      h("a", { class: "button primary", href: `#/classifiers/${place}` }, "See how good it is"),
      h("a", { class: "button", href: `#/try/${place}` }, `Try version ${state.version}`), back),
  ].filter(Boolean);
}
