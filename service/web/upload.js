// From what was dropped or chosen to labelled photos, and those to the service some at a time.

import { post } from "./api.js";
import { GENERIC, JUNK, JUNK_ENDINGS, SPLITS, SUFFIXES } from "./folders.js";

const AT_ONCE = 16; // photos of one request
const ARCHIVE = /\.(zip|tar|tgz|tar\.(gz|bz2|xz))$/i;

/** [{ label, file }]: a folder's name is its photos' class; loose photos take `label`. An archive's
 * label is null: its folders name the classes. */
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
  const own = (name) => ARCHIVE.test(name) ? null : label;
  return wanted.map(({ file, path }) => ({ label: path.length > 1 ? className(path, level) : own(path[0]), file }));
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

/** Sends all; `progress(done, of)`. What was refused comes back with its reason, added to `before`.
 * An error holds what came so far as `result`, and the photos that are left as `left`. */
export async function upload(dataset, photos, progress, before = {}) {
  const result = { accepted: 0, rejected: [], duplicates: [], warnings: [], ...before };
  const parts = requests(photos);
  let done = 0;
  for (const [i, part] of parts.entries()) {
    try {
      add(result, await post(`/v1/datasets/${dataset}/images`, formOf(part)));
    } catch (error) {
      if (error.status !== 422) throw Object.assign(error, { result, left: parts.slice(i).flat() });
      const field = part[0].label ?? part[0].file.name;
      const reasons = error.errors.length ? error.errors : [{ field, reason: error.message }];
      result.rejected.push(...reasons.map((e) => ({ file: e.field, reason: e.reason })));
    }
    done += part.length;
    progress(done, photos.length);
  }
  return result;
}

/** The photos of each request: some of one class, or an archive. */
function requests(photos) {
  const groups = new Map();
  for (const photo of photos) {
    const group = photo.label ?? photo; // each archive by itself
    groups.set(group, [...(groups.get(group) || []), photo]);
  }
  const parts = [];
  for (const group of groups.values()) {
    for (let start = 0; start < group.length; start += AT_ONCE) parts.push(group.slice(start, start + AT_ONCE));
  }
  return parts;
}

function formOf(part) {
  const form = new FormData();
  if (part[0].label === null) {
    form.append("archive", part[0].file, part[0].file.name);
    return form;
  }
  form.append("label", part[0].label);
  for (const { file } of part) form.append("files", file, file.name);
  return form;
}

function add(result, answer) {
  result.accepted += answer.accepted - answer.duplicates.length;
  result.rejected.push(...answer.rejected);
  result.duplicates.push(...answer.duplicates);
  result.warnings.push(...(answer.warnings ?? []));
}
