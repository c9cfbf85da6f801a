// How far a fit is, in words: its stage, its share, the time that is left.

import { duration } from "./dom.js";

const SURE_SECONDS = 1; // of watching, before a time is told
const SURE_STEPS = 5;
const first = new Map(); // of each job, where it stood when this page first saw it move

/** "Estimating the accuracy, 2 of 4 · 42 % · about 20 s left" */
export function progressWords(job) {
  const { progress } = job;
  if (job.state === "queued") return "Waiting for a worker";
  if (!progress) return job.stage === "instant" ? "Making the instant version" : "Reading the photos";
  const left = secondsLeft(job);
  return [stage(progress), `${Math.floor(100 * share(job))} %`,
    ...(left === null ? [] : [`${duration(left)} left`])].join(" · ");
}

export function share({ progress }) {
  return progress ? progress.step / progress.steps : 0;
}

function stage({ part, parts, step, steps }) {
  if (step === steps) return "Storing the version";
  if (!parts) return "Fitting"; // a worker of an earlier release does not tell
  return part < parts ? `Estimating the accuracy, ${part} of ${parts - 1}` : "Final fit on all photos";
}

function secondsLeft({ job, progress: { step, steps } }) {
  const now = performance.now() / 1000;
  if (!(first.get(job)?.step <= step)) first.set(job, { at: now, step }); // a fit may begin again
  const began = first.get(job);
  const seconds = now - began.at, done = step - began.step;
  return seconds < SURE_SECONDS || done < SURE_STEPS || step === steps ? null : (steps - step) * seconds / done;
}
