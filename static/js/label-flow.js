// The flow of labelling. The next feature is leased and loaded while this one is read; a label that the server has
// acknowledged brings it at once. What is typed is kept as a draft, so that a crash loses at most half a second of it.
const KEEP_AFTER = 400; // milliseconds without a key

const shown = () => document.getElementById("flow");
const formShown = () => shown().querySelector("[data-flow-form]");

let ahead = null; // the part of the page with the next feature, as a promise
let busy = false;
let timer = 0;
let keeping = Promise.resolve();

const post = (address, fields) =>
  fetch(address, { method: "POST", body: new URLSearchParams(fields), headers: { "HX-Request": "true" } });

const partOf = async (response) => {
  const part = document.createElement("template");
  part.innerHTML = await response.text();
  return part.content.firstElementChild;
};

const loadNext = async (besides) => {
  const response = await post(shown().dataset.next, besides.map((feature) => ["besides", feature]));
  if (!response.ok) throw new Error(response.statusText);
  return partOf(response);
};

const loadAhead = () => {
  const form = formShown();
  if (!form) return;
  ahead = loadNext([form.elements.feature.value]);
  ahead.catch(() => {}); // it is asked for once more when it is needed
};

const say = (text) => {
  document.getElementById("status").textContent = text;
};

const show = (flow, { push = true } = {}) => {
  clearTimeout(timer);
  shown().replaceWith(flow);
  htmx.process(flow);
  if (push) history.pushState(null, "", flow.dataset.address);
  scrollTo(0, 0);
  const title = flow.querySelector("h1");
  title.focus({ preventScroll: true });
  say(title.textContent);
  loadAhead();
};

const showNext = async (besides) => {
  const flow = await (ahead ?? Promise.reject()).catch(() => loadNext(besides));
  ahead = null;
  // That nothing is left was said before the label was in: ask once more.
  return flow.querySelector("[data-flow-form]") ? flow : loadNext(besides);
};

// A response that is no part of the flow is an error: its notice is shown where htmx shows its own.
const complain = async (response) => {
  document.getElementById("notice").replaceChildren(await partOf(response));
};

const noAnswer = () => {
  document.dispatchEvent(new Event("htmx:sendError"));
};

const doOnce = async (act) => {
  if (busy) return;
  busy = true;
  document.getElementById("notice").replaceChildren();
  shown().ariaBusy = "true";
  try {
    await act();
  } catch {
    noAnswer();
  } finally {
    busy = false;
    shown().ariaBusy = null;
  }
};

// --- drafts ---------------------------------------------------------------------------------------------------------

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

const keep = (form, keepalive = false) => {
  clearTimeout(timer);
  timer = 0;
  const body = JSON.stringify(valuesOf(form));
  const headers = { "Content-Type": "application/json" };
  const state = form.querySelector("[data-draft-state]");
  keeping = fetch(form.dataset.draft, { method: "PUT", body, headers, keepalive }).then(
    (response) => {
      state.textContent = response.ok ? "Kept for you." : "";
    },
    () => {
      state.textContent = "Not kept: the site does not answer.";
    },
  );
};

document.addEventListener("input", (event) => {
  const form = event.target.closest("[data-flow-form]");
  if (!form) return;
  clearTimeout(timer);
  timer = setTimeout(keep, KEEP_AFTER, form);
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && timer && formShown()) keep(formShown(), true);
});

// --- submitting, skipping, taking back --------------------------------------------------------------------------------

const goOn = async (response, besides) => {
  if (!response.ok) return complain(response);
  const progress = await partOf(response);
  const flow = await showNext(besides);
  flow.querySelector("#flow-progress").replaceWith(progress);
  show(flow);
};

const submit = async (form, submitter) => {
  clearTimeout(timer);
  timer = 0;
  await keeping; // a draft that arrived after the label would come back
  const fields = [...new FormData(form)];
  if (submitter?.name) fields.push([submitter.name, submitter.value]);
  const response = await post(form.action, fields);
  const isForm = [409, 422].includes(response.status);
  if (!isForm) return goOn(response, []);
  const part = await partOf(response);
  if (part.id !== "flow-form") return document.getElementById("notice").replaceChildren(part);
  form.closest("#flow-form").replaceWith(part);
};

const skip = async (form) => {
  clearTimeout(timer);
  timer = 0;
  await goOn(await post(form.action, [...new FormData(form)]), []);
};

const undo = async (form) => {
  await keeping;
  const response = await post(form.action, []);
  if (response.status === 204) return say("There is nothing to take back.");
  if (!response.ok) return complain(response);
  ahead = null;
  show(await partOf(response));
};

document.addEventListener("submit", (event) => {
  const acts = [["[data-flow-form]", submit], ["[data-flow-skip]", skip], ["[data-flow-undo]", undo]];
  const [, act] = acts.find(([selector]) => event.target.matches(selector)) ?? [];
  if (!act) return;
  event.preventDefault();
  doOnce(() => act(event.target, event.submitter));
});

// Enter submits, in the text too; Shift and Enter begin a new line there.
document.addEventListener("keydown", (event) => {
  const form = formShown();
  if (event.key !== "Enter" || !form || event.isComposing || event.defaultPrevented) return;
  if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("a, button, summary, select") || (event.target.matches("textarea") && event.target.form !== form)) return;
  event.preventDefault();
  form.requestSubmit();
});

addEventListener("popstate", () => location.reload());
loadAhead();
