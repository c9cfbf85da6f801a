// The router: an address's hash names a page; each page is a function that returns its elements.

import { Refused, call, key } from "./api.js";
import { announce, h } from "./dom.js";
import { classifier, classifiers } from "./classifiers.js";
import { dataset, datasets } from "./data.js";
import { fits, job } from "./fits.js";
import { keys } from "./keys.js";
import { problemBox } from "./problem.js";
import { signIn } from "./signin.js";
import { tenants } from "./tenants.js";
import { tryIt } from "./try.js";

// Who may open a page: the role of a key, from `roleOf`.
const PAGES = [
  [/^#\/data$/, datasets, ["manage"]],
  [/^#\/data\/([^/]+)$/, dataset, ["manage"]],
  [/^#\/fits$/, fits, ["manage"]],
  [/^#\/fits\/([^/]+)$/, job, ["manage"]],
  [/^#\/classifiers$/, classifiers, ["manage", "classify"]],
  [/^#\/classifiers\/([^/]+)(?:\/(\d+))?$/, classifier, ["manage", "classify"]],
  [/^#\/try(?:\/([^/]+)(?:\/(\d+))?)?$/, tryIt, ["manage", "classify"]],
  [/^#\/keys$/, keys, ["manage"]],
  [/^#\/tenants$/, tenants, ["admin"]],
];
const FIRST = { manage: "#/data", classify: "#/try", admin: "#/tenants" };

const main = document.getElementById("main");
const nav = document.querySelector("nav");
const signOut = document.getElementById("sign-out");
let leaving = new AbortController();
let role = null; // of the key; null: not asked yet

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  nav.hidden = signOut.hidden = !key.get();
  try {
    const page = await pageOf(signal);
    if (signal.aborted) return;
    main.replaceChildren(...page.content.filter((part) => part !== null && part !== undefined));
    document.title = `${page.title} · rmadapter`;
    announce(page.title);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) return leave("That key is no longer valid.");
    const problem = problemBox();
    main.replaceChildren(h("h1", {}, error.status === 404 ? "Not there" : "Something went wrong"), problem.box);
    problem.show(error, show, true);
    if (!(error instanceof Refused)) console.error(error);
  }
  mark();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function pageOf(signal) {
  if (!key.get()) return signIn(enter);
  role ??= await roleOf();
  for (const link of nav.querySelectorAll("[data-for]")) link.hidden = !link.dataset.for.split(" ").includes(role);
  for (const [pattern, page, roles] of PAGES) {
    const match = pattern.exec(location.hash);
    if (match && roles.includes(role)) {
      const [, argument, version] = match;
      return page({
        signal, manages: role === "manage",
        argument: argument && decodeURIComponent(argument), version: version && Number(version),
      });
    }
  }
  location.replace(FIRST[role]);
  return { title: "rmadapter", content: [] };
}

/** manage, classify or admin: what the service lets the key do. */
async function roleOf() {
  const may = (path) => call("GET", path).then(() => true, (error) => {
    if (error.status === 403) return false;
    throw error;
  });
  if (await may("/v1/datasets?limit=1")) return "manage";
  return await may("/v1/tenants?limit=1") ? "admin" : "classify";
}

function mark() {
  for (const link of nav.querySelectorAll("a")) {
    if (location.hash.startsWith(link.hash)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function enter(given) {
  key.set(given);
  try {
    role = await roleOf();
  } catch (error) {
    key.clear();
    throw error;
  }
  if (location.hash.length > 2) await show();
  else location.hash = FIRST[role];
}

function leave(reason) {
  key.clear();
  role = null;
  show().then(() => reason && announce(reason));
}

signOut.addEventListener("click", () => { location.hash = "#/"; leave("Signed out"); });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
show();
