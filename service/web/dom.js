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

/** Accuracy as somebody with photos reads it, and its 95 % interval. */
export function rightOf(report) {
  return `${Math.round(report.accuracy * report.images)} of ${plural(report.images, "photo")}`;
}

export function interval({ interval: [low, high] }) {
  return `(${Math.round(100 * low)} to ${Math.round(100 * high)} %)`;
}

/** Seconds, rounded as people say them. */
export function duration(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 90) return `about ${10 * Math.round(seconds / 10)} s`;
  return `about ${plural(Math.round(seconds / 60), "minute")}`;
}

/** Asks before something is lost. `typed`: what must be typed first. */
export function confirmed(question, action, typed = null) {
  const dialog = h("dialog", { "aria-label": question });
  return new Promise((resolve) => {
    const answer = (yes) => { dialog.close(); dialog.remove(); resolve(yes); };
    const yes = h("button", { class: "danger", disabled: typed !== null, onclick: () => answer(true) }, action);
    const field = typed === null ? null : h("input", { id: "typed", autocomplete: "off", spellcheck: "false",
      oninput: () => { yes.disabled = field.value.trim() !== typed; } });
    dialog.append(h("p", {}, question),
      ...(field ? [h("label", { for: "typed" }, `Type “${typed}” to go on`), field] : []),
      h("div", { class: "row" }, yes, h("button", { class: "quiet", onclick: () => answer(false) }, "Keep")));
    dialog.addEventListener("cancel", () => answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}
