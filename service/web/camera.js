// The camera. Browsers allow it on HTTPS and on localhost alone.

import { h } from "./dom.js";

const REASONS = {
  NotAllowedError: "this page was not allowed to use it. Allow it beside the browser's address bar.",
  NotFoundError: "this device has none.",
  NotReadableError: "another program uses it.",
};

/** Buttons that open the camera, take a picture and close it; `take(file)`. `many`: it stays open. */
export function camera(take, problem, signal, many = false) {
  const video = h("video", { playsinline: true, muted: true, hidden: true, "aria-label": "Camera" });
  const open = h("button", { type: "button", onclick: start }, "Use the camera");
  const shoot = h("button", { type: "button", class: "primary", hidden: true, onclick: shot }, "Take the picture");
  const close = h("button", { type: "button", hidden: true, onclick: stop }, "Close the camera");
  let stream = null;

  function show(on) {
    video.hidden = shoot.hidden = close.hidden = !on;
    open.hidden = on;
  }
  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    show(false);
  }
  async function start() {
    problem.clear();
    if (!navigator.mediaDevices) {
      return problem.show(new Error("Browsers allow the camera on HTTPS and on localhost alone. On a phone, the button that chooses photos offers it too."));
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      video.hidden = false;
      await video.play();
      show(true); // before, there is no picture to take
      shoot.focus();
    } catch (error) {
      stop();
      problem.show(new Error(`The camera cannot be used: ${REASONS[error.name] ?? error.message}`));
    }
  }
  function shot() {
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      if (!many) stop();
      if (blob) take(new File([blob], `camera-${Date.now()}.jpg`, { type: "image/jpeg" }));
    }, "image/jpeg", 0.9);
  }

  signal.addEventListener("abort", stop);
  return h("span", { class: "camera" }, h("span", { class: "row" }, open, shoot, close), video);
}
