// From what was dropped or chosen to labelled photos, and those to the service some at a time.

import { post } from "./api.js";

const AT_ONCE = 16; // photos of one request

/** [{ label, file }]: a folder's name is its photos' class; loose photos take `label`. */
export async function photosOf(dataTransfer, label) {
  const entries = [...dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return loose([...dataTransfer.files], label);
  const found = [];
  for (const entry of entries) await walk(entry, label, found);
  return found;
}

/** Of an <input type=file>, with or without webkitdirectory. */
export function loose(files, label) {
  return files.filter(wanted).map((file) => {
    const folders = (file.webkitRelativePath || "").split("/");
    return { label: folders.length > 1 ? folders.at(-2) : label, file };
  });
}

async function walk(entry, label, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    if (wanted(file)) found.push({ label, file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const child of some) await walk(child, entry.name, found);
  }
}

/** Lets things be dropped on an element; `take(dataTransfer)`. */
export function dropOn(zone, take) {
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer);
  });
}

function wanted(file) {
  return !file.name.startsWith(".") && !["Thumbs.db", "desktop.ini"].includes(file.name);
}

/** Sends all; `progress(done, of)`. What was refused comes back with its reason. */
export async function upload(dataset, photos, progress) {
  const result = { accepted: 0, rejected: [], duplicates: [] };
  const byClass = Map.groupBy ? Map.groupBy(photos, (p) => p.label) : grouped(photos);
  let done = 0;
  for (const [label, group] of byClass) {
    for (let start = 0; start < group.length; start += AT_ONCE) {
      const some = group.slice(start, start + AT_ONCE);
      const form = new FormData();
      form.append("label", label);
      for (const { file } of some) form.append("files", file, file.name);
      try {
        const answer = await post(`/v1/datasets/${dataset}/images`, form);
        result.accepted += answer.accepted - answer.duplicates.length;
        result.rejected.push(...answer.rejected);
        result.duplicates.push(...answer.duplicates);
      } catch (error) {
        if (error.status !== 422) throw Object.assign(error, { result });
        const reasons = error.errors.length ? error.errors : [{ field: label, reason: error.message }];
        result.rejected.push(...reasons.map((e) => ({ file: e.field, reason: e.reason })));
      }
      done += some.length;
      progress(done, photos.length);
    }
  }
  return result;
}

function grouped(photos) {
  const groups = new Map();
  for (const photo of photos) groups.set(photo.label, [...(groups.get(photo.label) || []), photo]);
  return groups;
}
