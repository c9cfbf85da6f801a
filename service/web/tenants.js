// For the administrator: tenants, their first key, a new one, and their end.

import { all, call } from "./api.js";
import { announce, confirmed, h, when } from "./dom.js";
import { problemBox } from "./problem.js";
import { secretPlace } from "./secret.js";

export async function tenants() {
  let { items } = await all("/v1/tenants");
  const problem = problemBox();
  const secret = secretPlace();
  const list = h("div", {});
  const name = h("input", { id: "tenant-name", required: true, maxlength: "100", placeholder: "Meadow Ltd" });

  function render() {
    list.replaceChildren(items.length ? table(items, { rotate, erase }) : h("p", {}, "There are no tenants yet."));
  }
  async function change(action) {
    problem.clear();
    try {
      await action();
      ({ items } = await all("/v1/tenants"));
      render();
    } catch (error) { problem.show(error); }
  }
  const make = (event) => {
    event.preventDefault();
    change(async () => {
      const made = await call("POST", "/v1/tenants", { name: name.value });
      secret.show(`First key of ${name.value}`, made.api_key);
      name.value = "";
    });
  };
  const rotate = async (tenant) => {
    const question = `Make a new key for ${tenant.name}? Its keys with full access end at once; keys that only classify stay.`;
    if (!await confirmed(question, "Make a new key")) return;
    await change(async () => {
      const made = await call("POST", `/v1/tenants/${tenant.tenant}/keys`);
      secret.show(`New key of ${tenant.name}`, made.api_key);
    });
  };
  const erase = async (tenant) => {
    const question = `Erase ${tenant.name} with all its photos, classifiers and keys? It cannot be brought back.`;
    if (!await confirmed(question, "Erase", tenant.name)) return;
    await change(async () => {
      await call("DELETE", `/v1/tenants/${tenant.tenant}`);
      announce("Erased");
    });
  };
  render();
  return {
    title: "Tenants",
    content: [
      h("h1", {}, "Tenants"),
      h("p", { class: "lead" }, "This is an admin key. A tenant is one customer: its photos, classifiers and keys are its own. Sign in with a tenant's key to bring photos and fit."),
      h("form", { class: "card", onsubmit: make }, h("h2", {}, "Make a tenant"),
        h("label", { for: "tenant-name" }, "Name"),
        h("div", { class: "row" }, name, h("button", { class: "primary" }, "Make"))),
      secret.element, problem.box, list,
    ],
  };
}

function table(items, { rotate, erase }) {
  const rows = [...items].sort((a, b) => b.created_at.localeCompare(a.created_at));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Tenants" }, h("table", { class: "versions" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), h("th", { scope: "col", class: "roomy" }, "Photos"),
      h("th", { scope: "col", class: "roomy" }, "Storage"), h("th", { scope: "col", class: "roomy" }, "Created"),
      h("th", { scope: "col" }, h("span", { class: "hidden-visually" }, "Actions")))),
    h("tbody", {}, rows.map((tenant) => h("tr", {},
      h("th", { scope: "row" }, tenant.name, h("span", { class: "id" }, tenant.tenant)),
      h("td", { class: "roomy" }, used(tenant.quotas.images, (n) => n.toLocaleString("en"))),
      h("td", { class: "roomy" }, used(tenant.quotas.bytes, megabytes)),
      h("td", { class: "roomy" }, when(tenant.created_at)),
      h("td", { class: "row" },
        h("button", { "aria-label": `New key for ${tenant.name}`, onclick: () => rotate(tenant) }, "New key"),
        h("button", { class: "quiet danger", "aria-label": `Erase ${tenant.name}`, onclick: () => erase(tenant) }, "Erase")))))));
}

function used(quota, words) {
  return h("span", { title: `of ${words(quota.limit)}` }, words(quota.used));
}

function megabytes(bytes) {
  return `${Math.ceil(bytes / 1e6).toLocaleString("en")} MB`;
}
