// Data sets: their list, and one with its photos by class.

import { all, call, lazyPicture } from "./api.js";
import { announce, confirmed, h, plural, problemBox, when } from "./dom.js";
import { fitForm } from "./fit.js";
import { dropOn, loose, photosOf, upload } from "./upload.js";

const SHOWN = 60; // thumbnails of a class at first, and with each press of the button

export async function datasets() {
  const { items } = await all("/v1/datasets");
  const problem = problemBox();
  const name = h("input", { id: "new-name", required: true, maxlength: "100", placeholder: "Flowers" });
  const create = h("form", {
    class: "card",
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        const made = await call("POST", "/v1/datasets", { name: name.value });
        location.hash = `#/data/${made.dataset}`;
      } catch (error) { problem.show(error); }
    },
  },
  h("h2", {}, items.length ? "Another set of photos" : "1. Name your set of photos"),
  h("label", { for: "new-name" }, "Name"),
  h("div", { class: "row" }, name, h("button", { class: "primary" }, "Create")),
  problem.box,
  items.length ? null : h("ol", { class: "steps", start: "2" },
    h("li", {}, "Drop folders of photos in: a folder's name is its class."),
    h("li", {}, "Fit: seconds to minutes."),
    h("li", {}, "Try it, then copy the call into your app.")));
  return {
    title: "Photos",
    content: [
      h("h1", {}, "Photos"),
      items.length ? h("ul", { class: "cards" }, items.reverse().map((d) => h("li", {},
        h("a", { class: "card link", href: `#/data/${d.dataset}` },
          h("strong", {}, d.name),
          h("span", {}, `${plural(d.images, "photo")}, ${plural(Object.keys(d.labels).length, "class", "classes")}`),
          h("span", { class: "hint" }, when(d.created_at)))))) : null,
      create,
    ],
  };
}

export async function dataset({ argument: id }) {
  const [set, { items: images, more }] = await Promise.all([
    call("GET", `/v1/datasets/${id}`), all(`/v1/datasets/${id}/images`, 5000),
  ]);
  const chosen = new Set();
  const problem = problemBox();
  const classes = h("div", {});
  const fit = h("div", {});
  const bar = selectionBar(id, chosen, images, problem, render);

  function render() {
    const groups = new Map();
    for (const image of images) groups.set(image.label, [...(groups.get(image.label) || []), image]);
    const names = [...groups.keys()].sort((a, b) => a.localeCompare(b));
    chosen.clear();
    bar.update(names);
    classes.replaceChildren(...names.map((label) => classSection(id, label, groups.get(label), chosen, () => bar.update(names))));
    fit.replaceChildren(...fitForm(set, new Map(names.map((n) => [n, groups.get(n).length]))));
  }

  const dropped = dropZone(id, async () => {
    images.splice(0, Infinity, ...(await all(`/v1/datasets/${id}/images`, 5000)).items);
    render();
  });
  render();
  return {
    title: set.name,
    content: [
      h("nav", { "aria-label": "Way back", class: "back" }, h("a", { href: "#/data" }, "Photos")),
      h("div", { class: "row spread" }, h("h1", {}, set.name),
        h("button", { class: "quiet danger", onclick: async () => {
          if (!await confirmed(`Delete “${set.name}” and its ${plural(images.length, "photo")}? Classifiers fitted on it stay.`, "Delete")) return;
          await call("DELETE", `/v1/datasets/${id}`);
          location.hash = "#/data";
        } }, "Delete this set")),
      ...dropped, problem.box, fit, bar.element, classes,
      more ? h("p", { class: "hint" }, "The first 5,000 photos are shown; a fit takes all.") : null,
    ].filter(Boolean),
  };
}

function dropZone(id, done) {
  const problem = problemBox();
  const outcome = h("div", { "aria-live": "polite" });
  const label = h("input", { id: "class-name", maxlength: "100", placeholder: "only for photos that are in no folder" });
  const meter = h("progress", { max: "1", value: 0, hidden: true, "aria-label": "Upload" });

  async function take(photos) {
    problem.clear();
    outcome.replaceChildren();
    const nameless = photos.filter((p) => !p.label);
    if (nameless.length) {
      problem.show(new Error(`${plural(nameless.length, "photo")} in no folder: type the class first, or drop a folder.`));
      label.focus();
      return;
    }
    if (!photos.length) return problem.show(new Error("There are no files in what you gave."));
    meter.hidden = false;
    let result;
    try {
      result = await upload(id, photos, (n, of) => { meter.value = n / of; });
    } catch (error) {
      problem.show(error);
      result = error.result;
    }
    meter.hidden = true;
    if (result) outcome.replaceChildren(...summary(result));
    await done();
  }

  const pick = (properties, text) => {
    const input = h("input", { type: "file", class: "hidden-visually", tabindex: "-1", "aria-hidden": "true", ...properties,
      onchange: () => { take(loose([...input.files], label.value.trim())); input.value = ""; } });
    return [h("button", { type: "button", onclick: () => input.click() }, text), input];
  };
  const zone = h("section", { class: "drop", "aria-label": "Add photos" },
    h("p", {}, h("strong", {}, "Drop folders or photos here")),
    h("p", { class: "hint" }, "A folder's name is the class of the photos in it."),
    h("div", { class: "row" }, ...pick({ webkitdirectory: true, multiple: true }, "Choose a folder"),
      ...pick({ multiple: true, accept: "image/*" }, "Choose photos")),
    h("div", { class: "row" }, h("label", { for: "class-name" }, "Class of these photos"), label),
    meter, problem.box, outcome);
  dropOn(zone, async (dropped) => take(await photosOf(dropped, label.value.trim())));
  return [zone];
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

function classSection(id, label, images, chosen, changed) {
  const grid = h("ul", { class: "photos" });
  const button = h("button", { class: "quiet" });
  let shown = 0;
  function more() {
    grid.append(...images.slice(shown, shown + SHOWN).map((image) => photo(id, image, chosen, changed)));
    shown = Math.min(images.length, shown + SHOWN);
    button.hidden = shown === images.length;
    button.textContent = `Show more (${images.length - shown} left)`;
  }
  button.addEventListener("click", more);
  more();
  return h("section", { class: "class", "aria-label": label },
    h("h2", {}, label, h("span", { class: "count" }, plural(images.length, "photo"))), grid, button);
}

function photo(id, image, chosen, changed) {
  const img = h("img", { alt: image.name || "photo", width: "96", height: "96" });
  lazyPicture(img, `/v1/datasets/${id}/images/${image.image}?size=192`);
  const box = h("input", { type: "checkbox", onchange: () => {
    if (box.checked) chosen.add(image.image); else chosen.delete(image.image);
    changed();
  } });
  return h("li", {}, h("label", { title: image.name }, box, img));
}

/** What can be done with the chosen photos; at the foot of the window while there are any. */
function selectionBar(id, chosen, images, problem, render) {
  const options = h("datalist", { id: "classes" });
  const target = h("input", { id: "target", list: "classes", maxlength: "100", placeholder: "Class" });
  const words = h("strong", { "aria-live": "polite" });

  async function each(action, done) {
    const failed = [];
    for (const image of [...chosen]) {
      try { await action(image); } catch (error) { failed.push(error); }
    }
    problem.clear();
    if (failed.length) problem.show(failed[0]);
    announce(done);
    render();
  }

  const element = h("section", { class: "selection", "aria-label": "Chosen photos", hidden: true }, words,
    h("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      const label = target.value.trim();
      if (!label) return target.focus();
      each(async (image) => {
        const moved = await call("PATCH", `/v1/datasets/${id}/images/${image}`, { label });
        images.splice(images.findIndex((i) => i.image === image), 1, moved);
      }, `Moved to ${label}`);
    } }, h("label", { for: "target", class: "hidden-visually" }, "Move to class"), target, options, h("button", {}, "Move")),
    h("button", { class: "danger", onclick: async () => {
      if (!await confirmed(`Delete ${plural(chosen.size, "photo")}?`, "Delete")) return;
      each(async (image) => {
        await call("DELETE", `/v1/datasets/${id}/images/${image}`);
        images.splice(images.findIndex((i) => i.image === image), 1);
      }, "Deleted");
    } }, "Delete"));
  return {
    element,
    update(names) {
      options.replaceChildren(...names.map((name) => h("option", { value: name })));
      element.hidden = chosen.size === 0;
      words.textContent = `${plural(chosen.size, "photo")} chosen`;
    },
  };
}
