// The photos of a data set by class: choosing some, moving, deleting, renaming a class, a closer look.

import { all, call, lazyPicture, patiently, pictureBytes, post } from "./api.js";
import { announce, confirmed, h, plural } from "./dom.js";
import { enlarge } from "./enlarge.js";

const SHOWN = 60; // thumbnails of a class at first, and with each press of the button
const AT_ONCE = 4; // calls at a time
const UNDOABLE = 200; // deleted photos that this page holds, to bring them back

/** `changed(counts)`: after each change, with the photos by class. */
export function gallery(id, images, problem, changed) {
  const path = `/v1/datasets/${id}/images`;
  const chosen = new Set();
  const opened = new Map(); // by class, how many thumbnails it shows
  const element = h("div", { class: "gallery" });
  const notice = h("div", { class: "row", role: "status" });
  let order = []; // of all photos as they are shown, for ranges
  let anchor = null, shift = false;
  const bar = selectionBar({ move: (label) => move([...chosen], label), remove, none: () => { chosen.clear(); mark(); } });

  function render() {
    const groups = new Map();
    for (const image of images) groups.set(image.label, [...(groups.get(image.label) || []), image]);
    const names = [...groups.keys()].sort((a, b) => a.localeCompare(b));
    order = names.flatMap((label) => groups.get(label).map(({ image }) => image));
    const there = new Set(order);
    for (const image of chosen) if (!there.has(image)) chosen.delete(image);
    anchor = null;
    bar.names(names);
    element.replaceChildren(notice, bar.element, ...names.map((label) => section(label, groups.get(label))));
    mark();
    changed(new Map(names.map((name) => [name, groups.get(name).length])));
  }

  function section(label, own) {
    const grid = h("ul", { class: "photos" });
    const button = h("button", { class: "quiet" });
    let shown = 0;
    function more(count) {
      grid.append(...own.slice(shown, shown + count).map((image) => photo(image, own)));
      shown = Math.min(own.length, shown + count);
      opened.set(label, shown);
      button.hidden = shown === own.length;
      button.textContent = `Show more (${own.length - shown} left)`;
      mark();
    }
    button.addEventListener("click", () => more(SHOWN));
    grid.addEventListener("click", (event) => { if (event.detail) ({ shiftKey: shift } = event); }, true);
    grid.addEventListener("keydown", (event) => { ({ shiftKey: shift } = event); }, true);
    more(Math.max(SHOWN, opened.get(label) ?? 0));
    const every = () => own.every(({ image }) => chosen.has(image));
    return h("section", { class: "class", "aria-label": label },
      h("div", { class: "row spread" },
        h("h2", {}, label, h("span", { class: "count" }, plural(own.length, "photo"))),
        h("div", { class: "row" },
          h("button", { class: "quiet", "aria-label": `Choose all of ${label}`, onclick: () => choose(own.map((o) => o.image), !every()) }, "Choose all"),
          h("button", { class: "quiet", "aria-label": `Rename ${label}`, onclick: () => rename(label) }, "Rename"))),
      grid, button);
  }

  function photo(image, own) {
    const name = image.name || "photo";
    const img = h("img", { alt: name, width: "96", height: "96" });
    lazyPicture(img, `${path}/${image.image}?size=192`);
    const box = h("input", { type: "checkbox", "data-image": image.image, onchange: () => {
      const [from, to] = [order.indexOf(anchor), order.indexOf(image.image)].sort((a, b) => a - b);
      const ranged = shift && from >= 0;
      choose(ranged ? order.slice(from, to + 1) : [image.image], box.checked);
      anchor = image.image;
    } });
    return h("li", {}, h("label", { title: name }, box, img),
      h("button", { class: "enlarge", "aria-label": `Enlarge ${name}`, onclick: () => enlarge(path, own, image) }, "⤢"));
  }

  function choose(some, on) {
    for (const image of some) if (on) chosen.add(image); else chosen.delete(image);
    mark();
  }
  function mark() {
    for (const box of element.querySelectorAll("[data-image]")) box.checked = chosen.has(box.dataset.image);
    bar.count(chosen.size);
  }

  /** Does something with each; `undo`, where it can be undone. */
  async function each(some, action, done, undo = null) {
    problem.clear();
    notice.replaceChildren(`${done} …`);
    const waiting = [...some], failed = [];
    const work = async () => {
      for (let one = waiting.pop(); one; one = waiting.pop()) {
        const mine = one;
        try { await patiently(() => action(mine)); } catch (error) { failed.push([mine, error]); }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    chosen.clear();
    render();
    notice.replaceChildren(`${done}: ${plural(some.length - failed.length, "photo")}. `,
      undo ? h("button", { class: "quiet", onclick: () => { notice.replaceChildren(); undo(); } }, "Undo") : "");
    announce(done);
    if (failed.length) problem.show(failed[0][1], () => each(failed.map(([one]) => one), action, done, undo));
  }

  function put(moved) {
    const at = images.findIndex((i) => i.image === moved.image);
    if (at >= 0) images.splice(at, 1, moved);
  }
  async function move(some, label) {
    const before = new Map(images.map((i) => [i.image, i.label]));
    const to = (target) => async (image) => put(await call("PATCH", `${path}/${image}`, { label: target(image) }));
    const known = some.filter((image) => before.has(image));
    await each(some, to(() => label), `Moved to ${label}`, () => each(known, to((image) => before.get(image)), "Moved back"));
  }

  async function remove() {
    if (!await confirmed(`Delete ${plural(chosen.size, "photo")}?`, "Delete")) return;
    const kept = []; // [{ label, name, bytes }]
    const holds = chosen.size <= UNDOABLE;
    await each([...chosen], async (image) => {
      const { label, name } = images.find((i) => i.image === image) ?? {};
      const bytes = holds ? await pictureBytes(`${path}/${image}`) : null;
      await call("DELETE", `${path}/${image}`);
      if (holds) kept.push({ label, name, bytes });
      images.splice(images.findIndex((i) => i.image === image), 1);
    }, "Deleted", holds ? () => each(kept, bringBack, "Brought back") : null);
  }
  async function bringBack({ label, name, bytes }) {
    const form = new FormData();
    form.append("label", label);
    form.append("files", bytes, name || "photo");
    await post(path, form);
    const { items } = await all(`${path}?label=${encodeURIComponent(label)}`);
    const missing = items.filter((item) => !images.some((i) => i.image === item.image));
    images.push(...missing);
  }

  async function rename(label) {
    const name = await asked(`New name of ${label}`, label);
    if (!name || name === label) return;
    const merges = images.some((image) => image.label === name);
    if (merges && !await confirmed(`${name} is there already. Put all photos of ${label} into it?`, "Merge")) return;
    try {
      const { items } = await all(`${path}?label=${encodeURIComponent(label)}`);
      await move(items.map(({ image }) => image), name);
    } catch (error) { problem.show(error, () => rename(label)); }
  }

  return { element, render };
}

/** What can be done with the chosen photos; at the foot of the window while there are any. */
function selectionBar({ move, remove, none }) {
  const options = h("datalist", { id: "classes" });
  const target = h("input", { id: "target", list: "classes", maxlength: "100", placeholder: "Class", autocomplete: "off" });
  const words = h("strong", { "aria-live": "polite" });
  const submit = (event) => {
    event.preventDefault();
    const label = target.value.trim();
    if (label) move(label); else target.focus();
  };
  const element = h("section", { class: "selection", "aria-label": "Chosen photos", hidden: true }, words,
    h("form", { class: "row", onsubmit: submit },
      h("label", { for: "target", class: "hidden-visually" }, "Move to class"), target, options, h("button", {}, "Move")),
    h("button", { class: "danger", onclick: remove }, "Delete"),
    h("button", { class: "quiet", onclick: none }, "Choose none"));
  return {
    element,
    names: (names) => options.replaceChildren(...names.map((name) => h("option", { value: name }))),
    count(size) {
      element.hidden = size === 0;
      words.textContent = `${plural(size, "photo")} chosen`;
    },
  };
}

/** Asks for a name; null: none given. */
function asked(question, value) {
  const field = h("input", { id: "asked", value, maxlength: "100", required: true, autocomplete: "off" });
  const dialog = h("dialog", { "aria-label": question });
  return new Promise((resolve) => {
    const answer = (name) => { dialog.close(); dialog.remove(); resolve(name); };
    dialog.append(h("form", { onsubmit: (event) => { event.preventDefault(); answer(field.value.trim()); } },
      h("label", { for: "asked" }, question), field,
      h("div", { class: "row" }, h("button", { class: "primary" }, "Rename"),
        h("button", { type: "button", class: "quiet", onclick: () => answer(null) }, "Cancel"))));
    dialog.addEventListener("cancel", () => answer(null));
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  });
}
