// Trying a classifier beside zero-shot, and the call that does the same.

import { address, all, post } from "./api.js";
import { scoreBars } from "./charts.js";
import { announce, h, problemBox } from "./dom.js";
import { dropOn } from "./upload.js";

export async function tryIt({ argument: wanted, signal }) {
  const { items } = await all("/v1/adapters");
  const usable = items.filter((a) => a.live);
  const problem = problemBox();
  const chosen = h("select", { id: "which", onchange: suggest },
    h("option", { value: "" }, "none: zero-shot alone"),
    usable.map((a) => h("option", { value: a.adapter, selected: a.adapter === wanted }, a.adapter)));
  if (!wanted && usable.length) chosen.value = usable[0].adapter;
  const classes = h("textarea", { id: "names", rows: "3", spellcheck: "false" });
  const photo = h("img", { alt: "The photo to classify", class: "preview", hidden: true });
  const results = h("div", { class: "results", "aria-live": "polite" });
  const curl = h("code", {});
  const command = h("section", { class: "curl", "aria-label": "The same from your app", hidden: true },
    h("h2", {}, "The same from your app"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Command" }, h("pre", {}, curl)),
    h("button", { class: "quiet", onclick: async () => { await navigator.clipboard.writeText(curl.textContent); announce("Copied"); } }, "Copy"));
  let file = null;

  function suggest() {
    const adapter = usable.find((a) => a.adapter === chosen.value);
    const live = adapter?.versions.find((v) => v.live);
    if (live) classes.value = live.classes.join(", ");
  }
  suggest();

  async function ask() {
    problem.clear();
    const names = classes.value.split(/[,\n]/).map((n) => n.trim()).filter(Boolean);
    if (!file) return problem.show(new Error("Choose a photo first."));
    if (!names.length) { classes.focus(); return problem.show(new Error("Type the names to choose from, with commas between.")); }
    const call = (adapter) => {
      const form = new FormData();
      form.append("files", file, file.name || "photo.jpg");
      form.append("classes", JSON.stringify(names));
      if (adapter) form.append("adapter", adapter);
      return post("/v1/classify", form);
    };
    try {
      const adapter = chosen.value;
      const answers = await Promise.all([call(""), ...(adapter ? [call(adapter)] : [])]);
      const titles = ["Zero-shot", `${adapter}, version ${answers.at(-1).version}`];
      results.replaceChildren(...answers.map((answer, i) => card(titles[i], answer.results[0])).reverse());
      curl.textContent = curlLine(adapter, names);
      command.hidden = false;
    } catch (error) { problem.show(error); }
  }

  function take(given) {
    if (!given) return;
    file = given;
    photo.src = URL.createObjectURL(given);
    photo.hidden = false;
    ask();
  }

  const input = h("input", { type: "file", accept: "image/*", class: "hidden-visually", tabindex: "-1", "aria-hidden": "true", onchange: () => take(input.files[0]) });
  const zone = h("section", { class: "drop", "aria-label": "Photo" }, h("p", {}, h("strong", {}, "Drop a photo here")),
    h("div", { class: "row" }, h("button", { onclick: () => input.click() }, "Choose a photo"), input, camera(take, problem, signal)), photo);
  dropOn(zone, (dropped) => take(dropped.files[0]));
  return {
    title: "Try it",
    content: [
      h("h1", {}, "Try it"),
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); ask(); } },
        h("label", { for: "which" }, "Classifier"), chosen,
        h("label", { for: "names" }, "Names to choose from, any you like"), classes,
        h("button", { class: "primary" }, "Classify")),
      zone, problem.box, results, command,
    ],
  };
}

function card(title, result) {
  return h("section", { class: "card" }, h("h2", {}, title),
    result.error ? h("p", { class: "problem" }, result.error) : scoreBars(result.predictions));
}

function curlLine(adapter, names) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [
    `curl -H "Authorization: Bearer $KEY" ${address("/v1/classify").href}`,
    "-F files=@photo.jpg",
    ...(adapter ? [`-F adapter=${adapter}`] : []),
    `-F ${quoted(`classes=${JSON.stringify(names)}`)}`,
  ].join(" \\\n     ");
}

/** A button that opens the camera, then takes a picture with it. */
function camera(take, problem, signal) {
  const video = h("video", { playsinline: true, muted: true, hidden: true, "aria-label": "Camera" });
  let stream = null;
  const stop = () => { stream?.getTracks().forEach((track) => track.stop()); stream = null; video.hidden = true; button.textContent = "Use the camera"; };
  const button = h("button", { type: "button", onclick: async () => {
    if (stream) {
      const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => { stop(); take(blob && new File([blob], "camera.jpg", { type: "image/jpeg" })); }, "image/jpeg", 0.9);
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      video.hidden = false;
      await video.play();
      button.textContent = "Take the picture";
    } catch (error) { stop(); problem.show(new Error(`The camera cannot be used: ${error.message}`)); }
  } }, "Use the camera");
  signal.addEventListener("abort", stop);
  return h("span", { class: "camera" }, button, navigator.mediaDevices ? video : null);
}
