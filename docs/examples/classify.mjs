// Photos to a classifier and an answer, from Node 20 or newer, without packages.
//   KEY=… FOLDER=./flowers PHOTO=photo.jpg node docs/examples/classify.mjs
// FOLDER holds a folder per class. URL names the service, http://localhost:8000 if unset.
import { readFile, readdir } from "node:fs/promises";
import { basename, join } from "node:path";

const { KEY, FOLDER, PHOTO, URL: url = "http://localhost:8000" } = process.env;

async function api(path, options = {}) {
  const response = await fetch(url + path, { ...options, headers: { Authorization: `Bearer ${KEY}`, ...options.headers } });
  if (!response.ok) throw new Error(`${path}: ${(await response.json()).detail}`);
  return response;
}
const json = (method, body) => ({ method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
const file = async (path) => [new Blob([await readFile(path)]), basename(path)];

const { dataset } = await (await api("/v1/datasets", json("POST", { name: "from JavaScript" }))).json();
for (const label of await readdir(FOLDER)) {
  const form = new FormData();
  form.append("label", label);
  for (const name of await readdir(join(FOLDER, label))) form.append("files", ...await file(join(FOLDER, label, name)));
  const { accepted, rejected } = await (await api(`/v1/datasets/${dataset}/images`, { method: "POST", body: form })).json();
  console.log(`${label}: ${accepted} photos`, ...rejected.map(({ file, reason }) => `${file}: ${reason}`));
}

let job = await (await api("/v1/jobs", json("POST", { dataset, adapter: "from-javascript" }))).json();
while (!job.finished_at) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await (await api(`/v1/jobs/${job.job}`)).json();
}
if (job.state !== "succeeded") throw new Error(job.error);

const form = new FormData();
form.append("files", ...await file(PHOTO));
form.append("adapter", "from-javascript");
const answer = await (await api("/v1/classify", { method: "POST", body: form })).json();
console.log(JSON.stringify(answer.results[0], null, 2));
