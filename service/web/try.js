// Trying a version of a classifier beside zero-shot, and the call that does the same.

import { all, post } from "./api.js";
import { camera } from "./camera.js";
import { scoreBars } from "./charts.js";
import { codeCard } from "./code.js";
import { h } from "./dom.js";
import { problemBox } from "./problem.js";
import { dropOn } from "./upload.js";

export async function tryIt({ argument: wanted, version: wantedVersion, manages, signal }) {
  const { items } = await all("/v1/adapters");
  const problem = problemBox();
  const which = h("select", { id: "which", onchange: () => { offerVersions(); suggest(); } },
    h("option", { value: "" }, "none: zero-shot alone"),
    items.map((a) => h("option", { value: a.adapter }, a.adapter)));
  const version = h("select", { id: "version", onchange: suggest });
  const versionField = h("div", {}, h("label", { for: "version" }, "Version"), version);
  const classes = h("textarea", { id: "names", rows: "3", spellcheck: "false" });
  const photo = h("img", { alt: "The photo to classify", class: "preview", hidden: true });
  const results = h("div", { class: "results", "aria-live": "polite" });
  const code = codeCard(manages);
  let file = null;

  const adapter = () => items.find((a) => a.adapter === which.value);
  const chosen = () => adapter()?.versions.find((v) => v.version === Number(version.value));
  function offerVersions(first = null) {
    versionField.hidden = !adapter();
    if (!adapter()) return;
    version.replaceChildren(...adapter().versions.map((v) =>
      h("option", { value: v.version }, `${v.version}${v.live ? " (live)" : ""}`)));
    const known = adapter().versions.some((v) => v.version === first);
    version.value = String(known ? first : adapter().live ?? adapter().versions[0].version);
  }
  function suggest() {
    if (chosen()) classes.value = chosen().classes.join(", ");
  }
  which.value = (items.find((a) => a.adapter === wanted) ?? items.find((a) => a.live) ?? items[0])?.adapter ?? "";
  offerVersions(wantedVersion);
  suggest();

  const names = () => classes.value.split(/[,\n]/).map((n) => n.trim()).filter(Boolean);
  function send(of) {
    const form = new FormData();
    form.append("files", file, file.name || "photo.jpg");
    form.append("classes", JSON.stringify(names()));
    if (of) {
      form.append("adapter", which.value);
      form.append("version", of.version);
    }
    return post("/v1/classify", form);
  }
  async function ask() {
    problem.clear();
    if (!file) return problem.show(new Error("Choose a photo first."));
    if (!names().length) { classes.focus(); return problem.show(new Error("Type the names to choose from, with commas between.")); }
    const of = chosen();
    try {
      const answers = await Promise.all([...(of ? [send(of)] : []), send(null)]);
      const titles = [...(of ? [`${which.value}, version ${of.version}`] : []), "Zero-shot"];
      results.replaceChildren(...answers.map((answer, i) => card(titles[i], answer.results[0])));
      code.show(asked(of));
      results.scrollIntoView({ block: "nearest" });
    } catch (error) { problem.show(error, ask, true); }
  }
  function asked(of) {
    const own = of && of.classes.join("\n") === names().join("\n");
    return {
      adapter: of && which.value,
      version: of && !of.live ? of.version : null,
      classes: own ? null : names(),
    };
  }
  function take(given) {
    if (!given) return;
    file = given;
    if (photo.src) URL.revokeObjectURL(photo.src);
    photo.src = URL.createObjectURL(given);
    photo.hidden = false;
    ask();
  }

  const input = h("input", { type: "file", accept: "image/*,.heic,.heif", class: "hidden-visually", tabindex: "-1", "aria-hidden": "true",
    onchange: () => { take(input.files[0]); input.value = ""; } });
  const zone = h("section", { class: "drop", "aria-label": "Photo" }, h("p", {}, h("strong", {}, "Drop a photo here")),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => input.click() }, "Choose a photo"), input), camera(take, problem, signal), photo);
  dropOn(zone, (dropped) => take(dropped.files[0]));
  return {
    title: "Try it",
    content: [
      h("h1", {}, "Try it"),
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); ask(); } },
        h("div", { class: "fields" }, h("div", {}, h("label", { for: "which" }, "Classifier"), which), versionField),
        h("label", { for: "names" }, "Names to choose from, any you like"), classes,
        h("button", { class: "primary" }, "Classify")),
      zone, problem.box, results, code.element,
    ],
  };
}

function card(title, result) {
  return h("section", { class: "card" }, h("h2", {}, title),
    result.error ? h("p", { class: "problem" }, result.error) : scoreBars(result.predictions),
    result.warning ? h("p", { class: "hint" }, result.warning) : null);
}
