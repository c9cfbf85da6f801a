// Adding photos to a data set: dropped, chosen, out of an archive, or from the camera.

import { camera } from "./camera.js";
import { h, plural } from "./dom.js";
import { problemBox } from "./problem.js";
import { dropOn, loose, photosOf, upload } from "./upload.js";

/** `done()` is called when photos came. */
export function addPhotos(id, done, signal) {
  const problem = problemBox();
  const outcome = h("div", { "aria-live": "polite" });
  const label = h("input", { id: "class-name", maxlength: "100", placeholder: "only for photos that are in no folder" });
  const meter = h("progress", { max: "1", value: 0, hidden: true, "aria-label": "Upload" });
  const waiting = h("button", { class: "primary", hidden: true }, "");
  let nameless = []; // chosen photos that wait for their class

  async function take(photos) {
    problem.clear();
    outcome.replaceChildren();
    if (!photos.length) return problem.show(new Error("There are no files in what you gave."));
    nameless = photos.filter((photo) => photo.label === "");
    wait();
    const named = photos.filter((photo) => photo.label !== "");
    if (named.length) await send(named);
    if (!nameless.length) return;
    problem.show(new Error(`${plural(nameless.length, "photo")} in no folder: type the class, then press Add.`));
    label.focus();
  }
  function wait() {
    waiting.hidden = !nameless.length;
    waiting.textContent = `Add ${plural(nameless.length, "photo")}`;
  }
  async function send(photos, before = {}) {
    meter.hidden = false;
    meter.value = 0;
    let result;
    try {
      result = await upload(id, photos, (n, of) => { meter.value = n / of; }, before);
    } catch (error) {
      result = error.result ?? before;
      problem.show(error, () => send(error.left ?? photos, result), true);
    }
    meter.hidden = true;
    if (result.accepted !== undefined) outcome.replaceChildren(...summary(result));
    try { await done(); } catch (error) { problem.show(error, done, true); }
  }

  const typed = () => label.value.trim();
  const pick = (properties, text) => {
    const input = h("input", { type: "file", class: "hidden-visually", tabindex: "-1", "aria-hidden": "true", multiple: true, ...properties,
      onchange: () => { take(loose([...input.files], typed())); input.value = ""; } });
    return [h("button", { type: "button", onclick: () => input.click() }, text), input];
  };
  const shot = (file) => take([...(typed() ? [] : nameless), { label: typed(), file }]);
  const zone = h("section", { class: "drop", "aria-label": "Add photos" },
    h("p", {}, h("strong", {}, "Drop folders, photos or a zip here")),
    h("p", { class: "hint" }, "A folder's name is the class of the photos in it, in a zip too."),
    h("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      if (nameless.length && typed()) take(nameless.map(({ file }) => ({ label: typed(), file })));
    } }, h("label", { for: "class-name" }, "Class of these photos"), label, waiting),
    h("div", { class: "row" }, ...pick({ webkitdirectory: true }, "Choose a folder"),
      ...pick({ accept: "image/*,.heic,.heif,.zip,.tar,.tgz,.gz,.bz2,.xz" }, "Choose photos or a zip")),
    camera(shot, problem, signal, true),
    meter, problem.box, outcome);
  dropOn(zone, async (dropped) => take(await photosOf(dropped, typed())));
  return zone;
}

function summary({ accepted, rejected, duplicates, warnings }) {
  const list = (title, lines) => lines.length
    ? h("details", { open: lines.length < 6 }, h("summary", {}, title), h("ul", {}, lines.map((line) => h("li", {}, line)))) : null;
  return [
    h("p", {}, `${plural(accepted, "new photo")} added.`),
    list(`${plural(rejected.length, "file")} not added`, rejected.map((r) => `${r.file}: ${r.reason}`)),
    list(`${plural(duplicates.length, "photo")} there already`, duplicates),
    list(`${plural(warnings.length, "warning")}`, warnings),
  ].filter(Boolean);
}
