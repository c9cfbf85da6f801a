// The router: an address's hash names a page; each page is a function that returns its elements.

import { Refused, call, key } from "./api.js";
import { announce, h } from "./dom.js";
import { classifier, classifiers } from "./classifiers.js";
import { dataset, datasets } from "./data.js";
import { job } from "./fit.js";
import { signIn } from "./signin.js";
import { tryIt } from "./try.js";

const PAGES = [
  [/^#\/data$/, datasets],
  [/^#\/data\/([^/]+)$/, dataset],
  [/^#\/fits\/([^/]+)$/, job],
  [/^#\/classifiers$/, classifiers],
  [/^#\/classifiers\/([^/]+)$/, classifier],
  [/^#\/try(?:\/([^/]+))?$/, tryIt],
];

const main = document.getElementById("main");
const nav = document.querySelector("nav");
const signOut = document.getElementById("sign-out");
let leaving = new AbortController();
let manages = null; // may the key do more than classify? null: not asked yet

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
    main.replaceChildren(h("h1", {}, "Something went wrong"),
      h("p", { class: "problem", role: "alert" }, error.message));
    if (!(error instanceof Refused)) console.error(error);
  }
  mark();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function pageOf(signal) {
  if (!key.get()) return signIn(enter);
  if (manages === null) manages = await mayManage();
  for (const link of nav.querySelectorAll("[data-manage]")) link.hidden = !manages;
  for (const [pattern, page] of PAGES) {
    const match = pattern.exec(location.hash);
    if (match) return page({ signal, manages, argument: match[1] && decodeURIComponent(match[1]) });
  }
  location.replace(manages ? "#/data" : "#/try");
  return { title: "rmadapter", content: [] };
}

async function mayManage() {
  try {
    await call("GET", "/v1/datasets?limit=1");
    return true;
  } catch (error) {
    if (error.status === 403) return false;
    throw error;
  }
}

function mark() {
  for (const link of nav.querySelectorAll("a")) {
    const here = location.hash.startsWith(link.hash)
      || (link.hash === "#/data" && location.hash.startsWith("#/fits"));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function enter(given) {
  key.set(given);
  manages = null;
  try {
    manages = await mayManage();
  } catch (error) {
    key.clear();
    throw error;
  }
  if (location.hash.length > 2) await show();
  else location.hash = manages ? "#/data" : "#/try";
}

function leave(reason) {
  key.clear();
  manages = null;
  show().then(() => reason && announce(reason));
}

signOut.addEventListener("click", () => { location.hash = "#/"; leave("Signed out"); });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
show();
