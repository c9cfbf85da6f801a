// Classifiers: their list, and one with its versions.

import { all, call } from "./api.js";
import { confirmed, h, plural, rightOf, when } from "./dom.js";
import { allFits, openFits } from "./fits.js";
import { problemBox } from "./problem.js";
import { comparison, report } from "./report.js";

export async function classifiers({ manages, signal }) {
  const [{ items }, running, names] = await withFits(manages, all("/v1/adapters"));
  return {
    title: "Classifiers",
    content: [
      h("h1", {}, "Classifiers"),
      items.length ? h("ul", { class: "cards" }, items.map((a) => {
        const live = a.versions.find((v) => v.live);
        return h("li", {}, h("a", { class: "card link", href: `#/classifiers/${encodeURIComponent(a.adapter)}` },
          h("strong", {}, a.adapter),
          h("span", {}, live ? `Version ${live.version} is live: ${words(live)}` : "No version is live yet"),
          h("span", { class: "hint" }, plural(a.versions.length, "version"))));
      })) : h("p", {}, "None yet. ", manages ? h("a", { href: "#/data" }, "Bring photos") : null, manages ? " and fit one." : null),
      running.length ? h("h2", {}, "Being fitted") : null,
      running.length ? openFits(running, names, signal) : null,
    ],
  };
}

/** What `answer` promises, the fits that run, and the names of data sets. */
async function withFits(manages, answer) {
  if (!manages) return [await answer, [], new Map()];
  const [given, jobs, sets] = await Promise.all([answer, allFits(), all("/v1/datasets")]);
  const names = new Map(sets.items.map((set) => [set.dataset, set.name]));
  return [given, jobs.filter((job) => !job.finished_at), names];
}

function words(version) {
  const { adapted } = version.metrics;
  return adapted ? `right on ${rightOf(adapted)} it had not seen` : "not measured";
}

export async function classifier({ argument: name, version: wanted, manages, signal }) {
  const path = `/v1/adapters/${encodeURIComponent(name)}`;
  let [adapter, running, names] = await withFits(manages, call("GET", path));
  running = running.filter((job) => job.adapter === name);
  let shown = wanted;
  const problem = problemBox();
  const list = h("div", {});
  const detail = h("div", { "aria-live": "polite" });
  const numbered = (number) => adapter.versions.find((v) => v.version === number);

  /** With its whole report; the answer for an adapter has those of the latest versions alone. */
  async function whole(number) {
    const known = numbered(number);
    if (known.metrics.adapted && !known.metrics.adapted.classes) {
      known.metrics = (await call("GET", `${path}/versions/${number}`)).metrics;
    }
    return known;
  }
  async function render() {
    if (!numbered(shown)) shown = adapter.live ?? adapter.versions[0].version;
    const version = await whole(shown);
    list.replaceChildren(versions(adapter, shown, manages, { look, publish, remove }));
    detail.replaceChildren(...report(version, manages), ...await comparison(adapter, whole, shown));
  }
  async function look(number) {
    const before = shown;
    shown = number;
    problem.clear();
    try {
      await render();
      history.replaceState(null, "", `#/classifiers/${encodeURIComponent(name)}/${number}`);
      detail.scrollIntoView({ block: "nearest" });
    } catch (error) {
      shown = before;
      problem.show(error, () => look(number), true);
    }
  }
  async function change(action) {
    problem.clear();
    try {
      await action();
      adapter = await call("GET", path);
      await render();
    } catch (error) {
      if (error.status === 404) location.hash = "#/classifiers"; // its last version went
      else problem.show(error, () => change(action));
    }
  }
  const publish = (number) => change(() => call("PUT", `${path}/live`, { version: number }));
  const remove = async (number) => {
    if (!await confirmed(`Delete version ${number}? It cannot be brought back.`, "Delete")) return;
    await change(() => call("DELETE", `${path}/versions/${number}`));
  };
  await render();
  return {
    title: name,
    content: [
      h("nav", { "aria-label": "Way back", class: "back" }, h("a", { href: "#/classifiers" }, "Classifiers")),
      h("div", { class: "row spread" }, h("h1", {}, name),
        h("a", { class: "button primary", href: `#/try/${encodeURIComponent(name)}` }, "Try it")),
      problem.box, running.length ? openFits(running, names, signal) : null, list, detail,
    ],
  };
}

function versions(adapter, shown, manages, { look, publish, remove }) {
  const place = encodeURIComponent(adapter.adapter);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Versions" }, h("table", { class: "versions" },
    h("thead", {}, h("tr", {}, ["Version", "Right", "Zero-shot"].map((t) => h("th", { scope: "col" }, t)),
      h("th", { scope: "col", class: "roomy" }, "Created"),
      h("th", { scope: "col" }, h("span", { class: "hidden-visually" }, "Actions")))),
    h("tbody", {}, adapter.versions.map((v) => h("tr", { class: v.version === shown ? "chosen" : null },
      h("th", { scope: "row" }, `${v.version} `, v.live ? h("span", { class: "badge" }, "live") : null,
        v.kind === "instant" ? h("span", { class: "hint" }, " instant") : null),
      h("td", {}, share(v.metrics.adapted)),
      h("td", {}, share(v.metrics.zero_shot)),
      h("td", { class: "roomy" }, when(v.created_at)),
      h("td", { class: "row" },
        v.version === shown ? null : h("button", { class: "quiet", "aria-label": `View version ${v.version}`, onclick: () => look(v.version) }, "View"),
        h("a", { class: "button quiet", "aria-label": `Try version ${v.version}`, href: `#/try/${place}/${v.version}` }, "Try"),
        v.live || !manages ? null : h("button", { "aria-label": `${adapter.live > v.version ? "Roll back to" : "Publish"} version ${v.version}`, onclick: () => publish(v.version) }, adapter.live > v.version ? "Roll back" : "Publish"),
        v.live || !manages ? null : h("button", { class: "quiet danger", "aria-label": `Delete version ${v.version}`, onclick: () => remove(v.version) }, "Delete")))))));
}

function share(report) {
  return report ? `${Math.round(report.accuracy * report.images)} of ${report.images}` : "–";
}
