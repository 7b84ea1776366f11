// What is typed into the form of a label is kept as a draft, so that a crash or another page loses at most half a second
// of it. The form names in data-draft where to; data-draft-state says what became of it.
const KEEP_AFTER = 400; // milliseconds without a key

let timer = 0;
let typedIn = null; // the form that has what is not kept yet
let keeping = Promise.resolve();
let isKeeping = false;

const valuesOf = (form) => {
  const fields = new FormData(form);
  const score = (name) => (fields.get(name) ? Number(fields.get(name)) : null);
  return {
    explanation: fields.get("explanation"),
    categories: fields.getAll("categories").flatMap((text) => text.split(",")).map((name) => name.trim()).filter(Boolean),
    interpretability: score("interpretability"),
    confidence: score("confidence"),
    cant_tell: fields.getAll("cant_tell").includes("true"),
  };
};

const say = (form, ...words) => form.querySelector("[data-draft-state]")?.replaceChildren(...words);

const sayRefused = async (form, response) => {
  const problem = await response.json().catch(() => ({}));
  say(form, `Not kept: ${problem.detail ?? "the site refused it."} `);
  if (response.status !== 401) return;
  const link = document.createElement("a");
  link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in";
  form.querySelector("[data-draft-state]")?.append(link);
};

const keep = (form, keepalive = false) => {
  stop();
  const body = JSON.stringify(valuesOf(form));
  const headers = { "Content-Type": "application/json" };
  isKeeping = true;
  keeping = fetch(form.dataset.draft, { method: "PUT", body, headers, keepalive })
    .then(
      (response) => {
        if (!response.ok) return sayRefused(form, response);
        say(form, "Kept for you.");
        form.dispatchEvent(new CustomEvent("draft:kept", { bubbles: true }));
      },
      () => say(form, "Not kept: the site does not answer."),
    )
    .finally(() => {
      isKeeping = false;
    });
};

const stop = () => {
  clearTimeout(timer);
  typedIn = null;
};

// Before a label is sent: a draft that arrived after it would come back.
export const settleDraft = () => {
  stop();
  return keeping;
};

document.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-draft]");
  if (!form) return;
  clearTimeout(timer);
  typedIn = form;
  timer = setTimeout(keep, KEEP_AFTER, form);
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && typedIn?.isConnected) keep(typedIn, true);
});
document.addEventListener("htmx:confirm", (event) => {
  if (!event.target.matches("form[data-draft]")) return;
  stop();
  if (!isKeeping) return;
  event.preventDefault();
  keeping.then(() => event.detail.issueRequest(true));
});
