// A new key, which the service shows once.

import { copyButton } from "./copy.js";
import { h } from "./dom.js";

/** A card with the key; the page takes it away with `done()`. */
export function secretCard(title, secret, done) {
  const field = h("input", { id: "new-key", readonly: true, value: secret, spellcheck: "false" });
  const card = h("section", { class: "card secret", "aria-label": title, tabindex: "-1" },
    h("h2", {}, title),
    h("label", { for: "new-key" }, "The key. It is shown this once: keep it now."),
    h("div", { class: "row" }, field, copyButton(field)),
    h("button", { type: "button", class: "quiet", onclick: done }, "I have kept it"));
  return card;
}

/** Where such a card appears; `show(title, key)` also takes the reader there. */
export function secretPlace() {
  const element = h("div", {});
  return {
    element,
    show(title, secret) {
      element.replaceChildren(secretCard(title, secret, () => element.replaceChildren()));
      element.firstElementChild.focus();
      element.scrollIntoView({ block: "nearest" });
    },
  };
}
