// Small helpers to make elements; text is always text, never markup.

/** h("p", { class: "a", onclick }, "text", child, …) */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Says something to a screen reader. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`;
}

export function plural(n, noun, many = `${noun}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? noun : many}`;
}

export function when(iso) {
  return new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** A box that shows why something failed; empty and hidden until then. */
export function problemBox() {
  const box = h("div", { class: "problem", role: "alert", hidden: true });
  return {
    box,
    clear() { box.hidden = true; box.replaceChildren(); },
    show(error) {
      const details = (error.errors || []).map((e) => h("li", {}, `${e.field}: ${e.reason}`));
      box.replaceChildren(h("p", {}, error.message), details.length ? h("ul", {}, details) : "");
      box.hidden = false;
    },
  };
}

/** Asks before something is lost. */
export function confirmed(question, action) {
  const dialog = h("dialog", { "aria-label": question });
  return new Promise((resolve) => {
    const answer = (yes) => { dialog.close(); dialog.remove(); resolve(yes); };
    dialog.append(
      h("p", {}, question),
      h("div", { class: "row" },
        h("button", { class: "danger", onclick: () => answer(true) }, action),
        h("button", { class: "quiet", onclick: () => answer(false) }, "Keep")),
    );
    dialog.addEventListener("cancel", () => answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}
