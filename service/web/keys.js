// A tenant's own API keys: their list, a new one, the end of one.

import { all, call } from "./api.js";
import { announce, confirmed, h, when } from "./dom.js";
import { problemBox } from "./problem.js";
import { secretPlace } from "./secret.js";

const MAY = { classify: "classify: photos and texts, the list of classifiers", manage: "manage: everything" };

export async function keys() {
  let { items } = await all("/v1/keys");
  const problem = problemBox();
  const secret = secretPlace();
  const list = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "API keys" });
  const scope = h("select", { id: "scope" },
    Object.entries(MAY).map(([value, words]) => h("option", { value }, words)));

  function render() {
    const rows = [...items].sort((a, b) => b.created_at.localeCompare(a.created_at));
    list.replaceChildren(h("table", { class: "versions" },
      h("thead", {}, h("tr", {}, ["Key", "Scope"].map((t) => h("th", { scope: "col" }, t)), h("th", { scope: "col", class: "roomy" }, "Created"),
        h("th", { scope: "col" }, "Last used"), h("th", { scope: "col" }, h("span", { class: "hidden-visually" }, "Actions")))),
      h("tbody", {}, rows.map((k) => h("tr", {},
        h("th", { scope: "row" }, h("code", {}, shortened(k.key_id))),
        h("td", {}, k.scope),
        h("td", { class: "roomy" }, when(k.created_at)),
        h("td", {}, k.last_used_at ? when(k.last_used_at) : "never"),
        h("td", { class: "row" }, h("button", {
          class: "quiet danger", "aria-label": `Revoke key ${shortened(k.key_id)}`, onclick: () => revoke(k),
        }, "Revoke")))))));
  }
  async function change(action) {
    problem.clear();
    try {
      await action();
      ({ items } = await all("/v1/keys"));
      render();
    } catch (error) { problem.show(error); }
  }
  const revoke = async ({ key_id: id, scope: of }) => {
    const question = `Revoke the key ${shortened(id)} (${of})? Apps that use it are refused at once.`;
    if (!await confirmed(question, "Revoke")) return;
    await change(async () => { await call("DELETE", `/v1/keys/${id}`); announce("Revoked"); });
  };
  const make = (event) => {
    event.preventDefault();
    change(async () => secret.show("A new key", (await call("POST", "/v1/keys", { scope: scope.value })).api_key));
  };
  render();
  return {
    title: "API keys",
    content: [
      h("h1", {}, "API keys"),
      h("p", { class: "lead" }, "An app gets a key of its own, with the smallest scope that it needs."),
      h("form", { class: "card", onsubmit: make }, h("h2", {}, "Make a key"),
        h("label", { for: "scope" }, "What it may do"), scope, h("button", { class: "primary" }, "Make a key")),
      secret.element, problem.box, list,
    ],
  };
}

/** Enough of an id to tell keys apart; `rmadapter keys list` has the whole. */
function shortened(id) {
  return `…${id.slice(-6)}`;
}
