import { h, problemBox } from "./dom.js";

/** `enter(key)` throws what the service says of a wrong one. */
export function signIn(enter) {
  const problem = problemBox();
  const input = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const button = h("button", { class: "primary" }, "Sign in");
  const form = h("form", {
    class: "card narrow",
    onsubmit: async (event) => {
      event.preventDefault();
      problem.clear();
      button.disabled = true;
      try {
        await enter(input.value.trim());
      } catch (error) {
        problem.show(error.status === 401 ? new Error("That key is not valid here. Keys begin with rma_.") : error);
        input.focus();
        input.select();
      } finally {
        button.disabled = false;
      }
    },
  },
  h("label", { for: "key" }, "Your API key"),
  input,
  problem.box,
  h("p", { class: "hint" }, "After ", h("code", {}, "rmadapter up"), " on this machine it is in ",
    h("code", {}, "~/.rmadapter/default.key"), ". It stays in this tab and is gone when you close it."),
  h("p", { class: "hint" }, "With Docker Compose, the administrator makes a tenant and its key: ",
    h("code", {}, "docker compose exec api rmadapter tenants create NAME"), "."),
  button);
  return {
    title: "Sign in",
    content: [
      h("h1", {}, "A classifier of your own photos"),
      h("p", { class: "lead" }, "Bring a handful of labelled photos, fit, and classify under any names."),
      form,
    ],
  };
}
