// Classifiers: their list, and one with its versions and what each is worth.

import { all, call, lazyPicture } from "./api.js";
import { accuracyBar, confusion } from "./charts.js";
import { confirmed, h, percent, plural, problemBox, when } from "./dom.js";

export async function classifiers() {
  const { items } = await all("/v1/adapters");
  return {
    title: "Classifiers",
    content: [
      h("h1", {}, "Classifiers"),
      items.length ? h("ul", { class: "cards" }, items.map((a) => {
        const live = a.versions.find((v) => v.live);
        return h("li", {}, h("a", { class: "card link", href: `#/classifiers/${encodeURIComponent(a.adapter)}` },
          h("strong", {}, a.adapter),
          h("span", {}, live ? `Version ${live.version} is live, ${words(live)}` : "Nothing published yet"),
          h("span", { class: "hint" }, plural(a.versions.length, "version"))));
      })) : h("p", {}, "None yet. ", h("a", { href: "#/data" }, "Bring photos"), " and fit one."),
    ],
  };
}

function words(version) {
  const { adapted } = version.metrics;
  return adapted ? `${percent(adapted.accuracy)} right` : "not measured";
}

export async function classifier({ argument: name, manages }) {
  const path = `/v1/adapters/${encodeURIComponent(name)}`;
  let adapter = await call("GET", path);
  let shown = adapter.live ?? adapter.versions[0].version;
  const problem = problemBox();
  const list = h("div", {});
  const detail = h("div", { "aria-live": "polite" });

  function render() {
    list.replaceChildren(versions(adapter, shown, manages, { look, publish, remove }));
    detail.replaceChildren(...report(adapter.versions.find((v) => v.version === shown), manages),
      ...comparison(adapter));
  }
  function look(number) { shown = number; render(); }
  async function change(action) {
    problem.clear();
    try {
      await action();
      adapter = await call("GET", path);
    } catch (error) {
      if (error.status === 404) { location.hash = "#/classifiers"; return; } // its last version went
      problem.show(error);
    }
    if (!adapter.versions.some((v) => v.version === shown)) {
      shown = adapter.live ?? adapter.versions[0].version;
    }
    render();
  }
  const publish = (number) => change(() => call("PUT", `${path}/live`, { version: number }));
  const remove = (number) => change(async () => {
    if (await confirmed(`Delete version ${number}? It cannot be brought back.`, "Delete")) {
      await call("DELETE", `${path}/versions/${number}`);
    }
  });
  render();
  return {
    title: name,
    content: [
      h("nav", { "aria-label": "Way back", class: "back" }, h("a", { href: "#/classifiers" }, "Classifiers")),
      h("div", { class: "row spread" }, h("h1", {}, name),
        h("a", { class: "button primary", href: `#/try/${encodeURIComponent(name)}` }, "Try it")),
      problem.box, list, detail,
    ],
  };
}

function versions(adapter, shown, manages, { look, publish, remove }) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Versions" }, h("table", { class: "versions" },
    h("thead", {}, h("tr", {}, ["Version", "Created", "Accuracy", "Zero-shot", ""].map((t) => h("th", { scope: "col" }, t || h("span", { class: "hidden-visually" }, "Actions"))))),
    h("tbody", {}, adapter.versions.map((v) => h("tr", { class: v.version === shown ? "chosen" : null },
      h("th", { scope: "row" }, `${v.version} `, v.live ? h("span", { class: "badge" }, "live") : null),
      h("td", {}, when(v.created_at)),
      h("td", {}, percent(v.metrics.adapted?.accuracy)),
      h("td", {}, percent(v.metrics.zero_shot?.accuracy)),
      h("td", { class: "row" },
        v.version === shown ? null : h("button", { class: "quiet", "aria-label": `View version ${v.version}`, onclick: () => look(v.version) }, "View"),
        v.live || !manages ? null : h("button", { "aria-label": `${adapter.live > v.version ? "Roll back to" : "Publish"} version ${v.version}`, onclick: () => publish(v.version) }, adapter.live > v.version ? "Roll back" : "Publish"),
        v.live || !manages ? null : h("button", { class: "quiet danger", "aria-label": `Delete version ${v.version}`, onclick: () => remove(v.version) }, "Delete")))))));
}

function report(version, manages) {
  const { adapted, zero_shot: zeroShot, mistakes = [], dataset } = version.metrics;
  const title = h("h2", {}, `Version ${version.version}`);
  if (!adapted) {
    return [title, h("p", {}, "Not measured: every class has only one photo. With two or more per class, some are held back to test on.")];
  }
  return [
    title,
    h("p", { class: "hint" }, `Each of the ${plural(adapted.images, "photo")} was classified by a fit that had not seen it. In brackets: the range that holds the true accuracy with 95 % certainty.`),
    accuracyBar("This version", adapted, true),
    accuracyBar("Without fitting (zero-shot)", zeroShot, false),
    h("p", {}, `Check answers that score under ${percent(adapted.min_score)} (`, h("code", {}, "min_score"), `). Scores are off by ${percent(adapted.calibration_error)} on average.`),
    h("h3", {}, "By class"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "By class" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Class", "Photos", "Recall", "Precision"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, adapted.classes.map((c) => h("tr", {}, h("th", { scope: "row" }, c.name), h("td", {}, String(c.images)), h("td", {}, percent(c.recall)), h("td", {}, percent(c.precision))))))),
    h("h3", {}, "Confusion matrix"),
    confusion(adapted),
    ...wrongOnes(mistakes, dataset, manages),
  ];
}

function wrongOnes(mistakes, dataset, manages) {
  if (!mistakes.length) return [];
  return [
    h("h3", {}, "Mistakes with the highest scores"),
    h("p", { class: "hint" }, "Often the label is wrong, or the photo shows both classes."),
    h("ul", { class: "mistakes" }, mistakes.map((m) => {
      const img = h("img", { alt: `A photo of ${m.label}`, width: "128", height: "128" });
      if (dataset && manages) lazyPicture(img, `/v1/datasets/${dataset}/images/${m.image}?size=256`);
      return h("li", {}, img, h("span", {}, `Classified as ${m.called} (${percent(m.score)}), labelled ${m.label}`));
    })),
    dataset && manages ? h("p", {}, h("a", { href: `#/data/${dataset}` }, "Go to its photos")) : null,
  ].filter(Boolean);
}

function comparison(adapter) {
  const judged = adapter.versions.filter((v) => v.metrics.adapted);
  if (judged.length < 2) return [];
  const pick = (id, chosen) => h("select", { id, onchange: render }, judged.map((v) => h("option", { value: v.version, selected: v === chosen }, `Version ${v.version}`)));
  const left = pick("left", judged[1]), right = pick("right", judged[0]);
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" });
  function render() {
    const [a, b] = [left, right].map((s) => judged.find((v) => v.version === Number(s.value)).metrics.adapted);
    const names = [...new Set([...a.classes, ...b.classes].map((c) => c.name))];
    const recall = (r, name) => r.classes.find((c) => c.name === name)?.recall;
    const row = (name, x, y) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, percent(x)), h("td", {}, percent(y)),
      h("td", { class: y > x ? "up" : y < x ? "down" : null }, x == null || y == null ? "–" : `${y >= x ? "+" : "−"}${(100 * Math.abs(y - x)).toFixed(1)}`));
    table.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, ["", `Version ${left.value}`, `Version ${right.value}`, "Points"].map((t) => t ? h("th", { scope: "col" }, t) : h("td", {})))),
      h("tbody", {}, row("All", a.accuracy, b.accuracy), names.map((n) => row(n, recall(a, n), recall(b, n))))));
  }
  render();
  return [
    h("h2", {}, "Compare two versions"),
    h("div", { class: "row" }, h("label", { for: "left" }, "From"), left, h("label", { for: "right" }, "to"), right),
    table,
  ];
}
