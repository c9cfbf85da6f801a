// Copying text. Browsers allow it on HTTPS and on localhost alone.

import { announce, h } from "./dom.js";

const SHOWN_MS = 2000;

/** A button that copies what stands in `element`; on plain HTTP it selects that and says why. */
export function copyButton(element, label = "Copy") {
  const note = h("span", { class: "hint", "aria-live": "polite" });
  const button = h("button", { type: "button", onclick: async () => {
    try {
      if (!navigator.clipboard) throw new Error("Browsers copy on HTTPS and on localhost alone.");
      await navigator.clipboard.writeText(element.value ?? element.textContent);
      note.textContent = "";
      button.textContent = "Copied";
      announce("Copied");
      setTimeout(() => { button.textContent = label; }, SHOWN_MS);
    } catch (error) {
      select(element);
      note.textContent = `${error.message} The text is selected: press Ctrl+C, or ⌘C on a Mac.`;
    }
  } }, label);
  return h("span", { class: "row" }, button, note);
}

function select(element) {
  if (element.select) return element.select();
  getSelection().selectAllChildren(element);
}
