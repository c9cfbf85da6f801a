// A closer look at a photo, and at its neighbours by the arrow keys.

import { patiently, picture } from "./api.js";
import { h } from "./dom.js";

/** `path`: of the data set's photos. `images`: those to walk through, beginning with `first`. */
export function enlarge(path, images, first) {
  let at = images.indexOf(first);
  let url = null;
  const img = h("img", { alt: "" });
  const words = h("p", { "aria-live": "polite" });
  const close = () => dialog.close();
  const dialog = h("dialog", { class: "large", "aria-label": "Photo", onkeydown: (event) => {
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  }, onclose: () => { dialog.remove(); if (url) URL.revokeObjectURL(url); } },
  img, words, h("div", { class: "row" },
    h("button", { onclick: () => show(at - 1) }, "Previous"),
    h("button", { onclick: () => show(at + 1) }, "Next"),
    h("button", { class: "primary", onclick: close }, "Close")));

  async function show(wanted) {
    at = (wanted + images.length) % images.length;
    const { image, name, label } = images[at];
    words.textContent = `${name || "photo"} · ${label} · ${at + 1} of ${images.length}`;
    img.alt = name || "photo";
    try {
      await fill(`${path}/${image}`);
      await img.decode().catch(() => fill(`${path}/${image}?size=512`)); // a kind that browsers do not show
    } catch (error) { words.textContent = error.message; }
  }
  async function fill(place) {
    const next = await patiently(() => picture(place));
    if (url) URL.revokeObjectURL(url);
    img.src = url = next;
  }

  document.body.append(dialog);
  dialog.showModal();
  show(at);
}
