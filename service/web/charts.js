// Pictures of numbers; each says its numbers in words or as a table too.

import { h, interval, percent, rightOf, svg } from "./dom.js";

/** The loss of each report, a line for each training; the last one is the final fit's. */
export function lossCurve() {
  const title = svg("title");
  const picture = svg("svg", { viewBox: "0 0 400 120", preserveAspectRatio: "none", class: "loss", role: "img" },
    title, svg("line", { x1: 0, y1: 119, x2: 400, y2: 119, class: "axis" }));
  const highest = h("span", {});
  const figure = h("figure", {}, h("p", { class: "hint" }, "Lower is better, from ", highest, " at the top to 0."), picture,
    h("figcaption", {}, "Grey: the fits that estimate the accuracy. In colour: the final fit."));
  const points = new Map(); // by training: its line and [share, loss] of each report
  function add({ step, steps, loss, part, parts }) {
    if (!points.has(part)) {
      const line = svg("polyline", { class: part === parts ? "curve" : "curve soft", points: "" });
      points.set(part, { line, reports: [] });
      picture.append(line);
    }
    points.get(part).reports.push([step / steps, loss]);
    const losses = [...points.values()].flatMap(({ reports }) => reports.map((r) => r[1]));
    const most = Math.max(...losses, 1e-9);
    for (const { line, reports } of points.values()) {
      line.setAttribute("points", reports.map(([x, y]) => `${(400 * x).toFixed(1)},${(115 - 110 * y / most).toFixed(1)}`).join(" "));
    }
    highest.textContent = most.toFixed(2);
    title.textContent = `Loss, from ${losses[0].toFixed(2)} to ${loss.toFixed(2)}`;
  }
  return { figure, add };
}

/** Accuracy with its 95 % interval: a bar from zero, a bracket for the interval. */
export function accuracyBar(name, report, strong) {
  const [low, high] = report.interval;
  const bar = svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "accuracy", "aria-hidden": "true" },
    svg("rect", { width: 100, height: 8, class: "track" }),
    svg("rect", { width: 100 * report.accuracy, height: 8, class: strong ? "fill strong" : "fill" }),
    svg("rect", { x: 100 * low, y: 3, width: Math.max(0.5, 100 * (high - low)), height: 2, class: "interval" }));
  return h("div", { class: "measure" },
    h("div", { class: "measure-words" },
      h("span", {}, name),
      h("span", {}, h("strong", {}, rightOf(report)), ` right ${interval(report)}`)),
    bar);
}

/** Scores of one picture, best first. */
export function scoreBars(predictions, most = 8) {
  return h("ol", { class: "scores" }, predictions.slice(0, most).map((p) =>
    h("li", {},
      h("span", { class: "score-name" }, p.label),
      h("span", { class: "score-number" }, percent(p.score)),
      svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { width: 100, height: 4, class: "track" }),
        svg("rect", { width: Math.max(0.4, 100 * p.score), height: 4, class: "fill strong" })))));
}

/** The confusion matrix: a row for each label, a column for each answer. */
export function confusion(report) {
  const names = report.classes.map((c) => c.name);
  const cells = (row, i) => row.map((n, j) => {
    const share = n / Math.max(1, row.reduce((a, b) => a + b));
    const tone = n ? Math.min(9, Math.ceil(9 * share)) : 0;
    return h("td", { class: `${i === j ? "right" : "wrong"} tone${tone}` }, n ? String(n) : "·");
  });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" },
    h("table", { class: "confusion" },
      h("caption", {}, "Rows: the photo's label. Columns: the answer."),
      h("thead", {}, h("tr", {}, h("td", {}),
        names.map((name) => h("th", { scope: "col" }, h("span", {}, name))))),
      h("tbody", {}, report.confusion.map((row, i) =>
        h("tr", {}, h("th", { scope: "row" }, names[i]), cells(row, i))))));
}
