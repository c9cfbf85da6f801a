// What a version is worth: its accuracy, class by class, its mistakes, and two versions side by side.

import { lazyPicture } from "./api.js";
import { accuracyBar, confusion } from "./charts.js";
import { h, percent, plural } from "./dom.js";

export function report(version, manages) {
  const { adapted, zero_shot: zeroShot, mistakes = [], dataset } = version.metrics;
  const instant = version.kind === "instant";
  const title = h("h2", {}, instant ? `Instant version ${version.version}` : `Version ${version.version}`);
  if (!adapted) {
    return [title, h("p", {}, "Not measured: every class has only one photo. With two or more per class, some are held back to test on.")];
  }
  return [
    title,
    h("p", {}, `How many of ${plural(adapted.images, "photo")} it had not seen it classifies right. In brackets: with 95 % certainty, the true share lies between.`),
    accuracyBar("This version", adapted, true),
    accuracyBar("Without fitting (zero-shot)", zeroShot, false),
    version.metrics.instant ? accuracyBar("Instant version, without training", version.metrics.instant, false) : null,
    h("p", { class: "hint" }, instant
      ? "Each of these photos was classified by others alone. Nothing was trained."
      : "For this count, each photo was classified by a fit on the others; then the version was fitted on all."),
    fewer(version.metrics.photos),
    h("p", {}, `Check answers that score under ${percent(Math.floor(1000 * adapted.min_score) / 1000)} (`, h("code", {}, "min_score"), `). Scores are off by ${percent(adapted.calibration_error)} on average.`),
    h("h3", {}, "By class"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "By class" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Class", "Photos", "Recall", "Precision"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, adapted.classes.map((c) => h("tr", {}, h("th", { scope: "row" }, c.name), h("td", {}, String(c.images)), h("td", {}, percent(c.recall)), h("td", {}, percent(c.precision))))))),
    h("p", { class: "hint" }, "Recall: of the photos of a class, how many were found. Precision: of the photos given a class, how many belong to it."),
    h("h3", {}, "Confusion matrix"),
    confusion(adapted),
    ...wrongOnes(mistakes, dataset, manages),
  ].filter(Boolean);
}

/** Where memory did not hold all photos: how many the adapter was fitted on. */
function fewer(photos) {
  if (!photos || !photos.adapter || photos.adapter === photos.head) return null;
  return h("p", { class: "hint" }, `Of ${photos.head} photos, memory held ${photos.adapter} to train on; the others are used by their features.`);
}

function wrongOnes(mistakes, dataset, manages) {
  if (!mistakes.length) return [];
  return [
    h("h3", {}, "Mistakes with the highest scores"),
    h("p", { class: "hint" }, "Often the label is wrong, or the photo shows both classes."),
    h("ul", { class: "mistakes" }, mistakes.map((m) => {
      const img = dataset && manages ? h("img", { alt: `A photo of ${m.label}`, width: "128", height: "128" }) : null;
      if (img) lazyPicture(img, `/v1/datasets/${dataset}/images/${m.image}?size=256`);
      return h("li", {}, img, h("span", {}, `Classified as ${m.called} (${percent(m.score)}), labelled ${m.label}`));
    })),
    dataset && manages ? h("p", {}, h("a", { href: `#/data/${dataset}` }, "Go to its photos")) : null,
  ].filter(Boolean);
}

/** Two versions side by side; `whole(number)` gives a version with its whole report. */
export async function comparison(adapter, whole, shown) {
  const judged = adapter.versions.filter((v) => v.metrics.adapted).map((v) => v.version);
  if (judged.length < 2) return [];
  const right = judged.includes(shown) ? shown : judged[0];
  const other = judged[judged.indexOf(right) + 1] ?? judged.find((n) => n !== right);
  const pick = (id) => h("select", { id, onchange: render }, judged.map((n) => h("option", { value: n }, `Version ${n}`)));
  const from = pick("left"), to = pick("right");
  [from.value, to.value] = [other, right];
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" });
  async function render() {
    const [a, b] = await Promise.all([from, to].map(async (s) => (await whole(Number(s.value))).metrics.adapted));
    table.replaceChildren(comparisonTable(a, b, from.value, to.value));
  }
  await render();
  return [
    h("h2", {}, "Compare two versions"),
    h("div", { class: "row" }, h("label", { for: "left" }, "From"), from, h("label", { for: "right" }, "to"), to),
    table,
  ];
}

function comparisonTable(a, b, from, to) {
  const names = [...new Set([...a.classes, ...b.classes].map((c) => c.name))];
  const recall = (r, name) => r.classes.find((c) => c.name === name)?.recall;
  const row = (name, x, y) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, percent(x)), h("td", {}, percent(y)),
    h("td", { class: y > x ? "up" : y < x ? "down" : null }, x == null || y == null ? "–" : `${y >= x ? "+" : "−"}${(100 * Math.abs(y - x)).toFixed(1)}`));
  return h("table", {},
    h("thead", {}, h("tr", {}, ["", `Version ${from}`, `Version ${to}`, "Points"].map((t) => t ? h("th", { scope: "col" }, t) : h("td", {})))),
    h("tbody", {}, row("All", a.accuracy, b.accuracy), names.map((n) => row(n, recall(a, n), recall(b, n)))));
}
