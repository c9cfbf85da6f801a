// From what was dropped or chosen to labelled photos, and those to the service some at a time.

import { post } from "./api.js";
import { GENERIC, JUNK, JUNK_ENDINGS, SPLITS, SUFFIXES } from "./folders.js";

const AT_ONCE = 16; // photos of one request

/** [{ label, file }]: a folder's name is its photos' class; loose photos take `label`. */
export async function photosOf(dataTransfer, label) {
  const entries = [...dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return loose([...dataTransfer.files], label);
  const found = [];
  for (const entry of entries) await walk(entry, [], found);
  return labelled(found, label);
}

/** Of an <input type=file>, with or without webkitdirectory. */
export function loose(files, label) {
  return labelled(files.map((file) => ({ file, path: (file.webkitRelativePath || file.name).split("/") })), label);
}

async function walk(entry, folders, found) {
  const path = [...folders, entry.name];
  if (junk(path.at(-1))) return;
  if (entry.isFile) {
    found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const child of some) await walk(child, path, found);
  }
}

function labelled(found, label) {
  const wanted = found.filter(({ path }) => !path.some(junk));
  const level = classLevel(wanted.map(({ path }) => path));
  return wanted.map(({ file, path }) => ({ label: path.length > 1 ? className(path, level) : label, file }));
}

// The next three say what training/folders.py says; the lists are its own.

function junk(name) {
  const plain = name.toLowerCase();
  return name.startsWith(".") || JUNK.includes(plain) || JUNK_ENDINGS.some((end) => plain.endsWith(end));
}

function className(path, level) {
  const folder = path.at(-2).toLowerCase();
  const empty = GENERIC.includes(folder) || SPLITS.includes(folder);
  return level === 2 && empty && path.length > 2 ? path.at(-3) : path.at(-2);
}

function classLevel(paths) {
  const photos = paths.filter((path) => SUFFIXES.some((end) => path.at(-1).toLowerCase().endsWith(end)));
  const inner = new Set(photos.map((path) => (path.at(-2) ?? "").toLowerCase()));
  const outer = new Set(photos.map((path) => path.at(-3) ?? ""));
  const oneWord = inner.size === 1 && GENERIC.includes([...inner][0]);
  const splits = (names) => [...names].every((name) => SPLITS.includes(name.toLowerCase()));
  if (photos.some((path) => path.length < 3) || !(oneWord || splits(inner))) return 1;
  return !splits(outer) && (oneWord || outer.size > 1) ? 2 : 1;
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

/** Sends all; `progress(done, of)`. What was refused comes back with its reason. */
export async function upload(dataset, photos, progress) {
  const result = { accepted: 0, rejected: [], duplicates: [], warnings: [] };
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
        result.warnings.push(...(answer.warnings ?? []));
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
