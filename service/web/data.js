// Data sets: their list, and one with what can be done with its photos.

import { addPhotos } from "./add.js";
import { all, call } from "./api.js";
import { confirmed, h, plural, when } from "./dom.js";
import { allFits, fitForm, openFits } from "./fits.js";
import { gallery } from "./photos.js";
import { problemBox } from "./problem.js";

const MOST = 5000; // photos that a page shows

export async function datasets() {
  const { items } = await all("/v1/datasets");
  const problem = problemBox();
  const name = h("input", { id: "new-name", required: true, maxlength: "100", placeholder: "Flowers" });
  const create = async () => {
    problem.clear();
    try {
      const made = await call("POST", "/v1/datasets", { name: name.value });
      location.hash = `#/data/${made.dataset}`;
    } catch (error) { problem.show(error, create); }
  };
  const form = h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); create(); } },
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
      form,
    ],
  };
}

export async function dataset({ argument: id, signal }) {
  const path = `/v1/datasets/${id}`;
  const [set, { items: images, more }, { items: adapters }, jobs] = await Promise.all([
    call("GET", path), all(`${path}/images`, MOST), all("/v1/adapters"), allFits(),
  ]);
  const problem = problemBox();
  const fit = h("div", {});
  const photos = gallery(id, images, problem, (counts) => fit.replaceChildren(...fitForm(set, counts, adapters, jobs)));
  const reload = async () => {
    images.splice(0, Infinity, ...(await all(`${path}/images`, MOST)).items);
    photos.render();
  };
  const remove = async () => {
    if (!await confirmed(`Delete “${set.name}” and its ${plural(images.length, "photo")}? Classifiers fitted on it stay.`, "Delete")) return;
    try {
      await call("DELETE", path);
      location.hash = "#/data";
    } catch (error) { problem.show(error); }
  };
  const names = new Map([[id, set.name]]);
  const running = jobs.filter((job) => job.dataset === id && !job.finished_at);
  photos.render();
  return {
    title: set.name,
    content: [
      h("nav", { "aria-label": "Way back", class: "back" }, h("a", { href: "#/data" }, "Photos")),
      h("div", { class: "row spread" }, h("h1", {}, set.name),
        h("button", { class: "quiet danger", onclick: remove }, "Delete this set")),
      addPhotos(id, reload, signal), running.length ? openFits(running, names, signal) : null,
      fit, problem.box, photos.element,
      more ? h("p", { class: "hint" }, "The first 5,000 photos are shown; a fit takes all.") : null,
    ],
  };
}
