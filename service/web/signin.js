import { h } from "./dom.js";
import { problemBox } from "./problem.js";

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
        problem.show(error.status === 401 ? new Error("That key is not valid here. A tenant's keys begin with rma_.") : error,
          error.status === 401 ? null : () => form.requestSubmit(), true);
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
  button,
  h("p", { class: "hint" }, "It stays in this tab and is gone when you close it. Where do you get one?"),
  h("ul", { class: "hint" },
    h("li", {}, "After ", h("code", {}, "rmadapter up"), " it is in the file that was printed: ", h("code", {}, "~/.rmadapter/default.key"), "."),
    h("li", {}, "With Docker Compose: ", h("code", {}, "docker compose exec api rmadapter tenants create NAME")),
    h("li", {}, "On Kubernetes: ", h("code", {}, "kubectl -n rmadapter exec deployment/api -- rmadapter tenants create NAME")),
    h("li", {}, "An admin key opens the list of tenants; there you make one and see its key.")));
  return {
    title: "Sign in",
    content: [
      h("h1", {}, "A classifier of your own photos"),
      h("p", { class: "lead" }, "Bring a handful of labelled photos, fit, and classify under any names."),
      form,
    ],
  };
}
