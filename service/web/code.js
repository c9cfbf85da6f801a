// The same call from an app, in three languages, with this page's address filled in.

import { address, call } from "./api.js";
import { copyButton } from "./copy.js";
import { h } from "./dom.js";
import { problemBox } from "./problem.js";

const NO_KEY = "PASTE-YOUR-KEY";

/** A card whose `show(asked)` fills in { adapter, version, classes }; unset ones are left out. */
export function codeCard(manages) {
  const code = h("code", {});
  const problem = problemBox();
  const tabs = Object.keys(LANGUAGES).map((name, i) => h("button", {
    type: "button", role: "tab", id: `tab-${i}`, "aria-controls": "code", onclick: () => choose(i),
  }, name));
  const note = h("span", { class: "hint", "aria-live": "polite" }, manages ? null
    : "Put your key in its place.");
  let asked = {}, chosen = 0, secret = NO_KEY;

  function render() {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    code.textContent = Object.values(LANGUAGES)[chosen](asked, secret, address("/v1/classify").href);
  }
  function choose(i) {
    chosen = i;
    render();
    tabs[i].focus();
  }
  async function makeKey() {
    problem.clear();
    try {
      secret = (await call("POST", "/v1/keys", { scope: "classify" })).api_key;
      note.textContent = "It is in the code now, and shown this once. It may only classify. API keys lists it.";
      render();
    } catch (error) { problem.show(error, makeKey); }
  }

  const step = { ArrowRight: 1, ArrowLeft: -1 };
  const list = h("div", { role: "tablist", "aria-label": "Language", onkeydown: (event) => {
    if (event.key in step) choose((chosen + step[event.key] + tabs.length) % tabs.length);
  } }, tabs);
  const panel = h("div", { id: "code", class: "scroll", tabindex: "0", role: "tabpanel" }, h("pre", {}, code));
  const element = h("section", { class: "code", "aria-label": "The same from your app", hidden: true },
    h("h2", {}, "The same from your app"), list, panel,
    h("div", { class: "row" }, copyButton(code),
      manages ? h("button", { type: "button", onclick: makeKey }, "Make a key for this app") : null, note),
    problem.box);
  return {
    element,
    show(given) {
      asked = given;
      element.hidden = false;
      render();
    },
  };
}

const LANGUAGES = {
  curl({ adapter, version, classes }, key, url) {
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    return `KEY=${quoted(key)}\n` + [
      `curl -H "Authorization: Bearer $KEY" ${quoted(url)}`,
      "-F files=@photo.jpg",
      ...(adapter ? [`-F adapter=${adapter}`] : []),
      ...(version ? [`-F version=${version}`] : []),
      ...(classes ? [`-F ${quoted(`classes=${JSON.stringify(classes)}`)}`] : []),
    ].join(" \\\n     ");
  },
  Python(asked, key, url) {
    return `import json

import httpx  # pip install httpx

headers = {"Authorization": ${JSON.stringify(`Bearer ${key}`)}}
data = {${fields(asked, (classes) => `json.dumps(${JSON.stringify(classes)})`)}}
with open("photo.jpg", "rb") as photo:
    answer = httpx.post(${JSON.stringify(url)}, headers=headers, data=data, files={"files": photo})
answer.raise_for_status()
print(answer.json()["results"][0]["label"])`;
  },
  JavaScript(asked, key, url) {
    return `import { readFile } from "node:fs/promises"; // Node 20; in a browser, a File will do

const form = new FormData();
form.append("files", new Blob([await readFile("photo.jpg")]), "photo.jpg");
const fields = {${fields(asked, (classes) => `JSON.stringify(${JSON.stringify(classes)})`)}};
for (const [name, value] of Object.entries(fields)) form.append(name, value);
const headers = { Authorization: ${JSON.stringify(`Bearer ${key}`)} };
const response = await fetch(${JSON.stringify(url)}, { method: "POST", headers, body: form });
const answer = await response.json();
if (!response.ok) throw new Error(answer.detail);
console.log(answer.results[0].label);`;
  },
};

/** As the inside of a dictionary; text in JSON's quotes is text in Python and JavaScript, too. */
function fields({ adapter, version, classes }, list) {
  return [
    ...(adapter ? [`"adapter": ${JSON.stringify(adapter)}`] : []),
    ...(version ? [`"version": "${version}"`] : []),
    ...(classes ? [`"classes": ${list(classes)}`] : []),
  ].join(", ");
}
