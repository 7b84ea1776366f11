// The flow of labelling. The next feature is leased and loaded while this one is read; a label that the server has
// acknowledged brings it at once. It is leased when somebody begins to write, so that a page that is only opened does not
// hold two features, and given up once its lease may have ended.
import { settleDraft } from "./drafts.js";

const LEASE_LASTS = 9 * 60_000; // milliseconds, a minute less than the server says

const shown = () => document.getElementById("flow");
const formShown = () => shown().querySelector("[data-flow-form]");

let ahead = null; // the part of the page with the next feature, as a promise
let heldUntil = 0; // until when that feature is leased for certain
let busy = false;

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
  if (!form || (ahead && Date.now() < heldUntil)) return;
  heldUntil = Date.now() + LEASE_LASTS;
  ahead = loadNext([form.elements.feature.value]);
  ahead.catch(() => {}); // it is asked for once more when it is needed
};

const say = (text) => {
  document.getElementById("status").textContent = text;
};

const show = (flow) => {
  shown().replaceWith(flow);
  htmx.process(flow);
  history.pushState(null, "", flow.dataset.address);
  scrollTo(0, 0);
  const title = flow.querySelector("h1");
  title.focus({ preventScroll: true });
  say(title.textContent);
};

const showNext = async (besides) => {
  const loaded = Date.now() < heldUntil ? ahead : null; // else it may be somebody else's by now
  ahead = null;
  const flow = await (loaded ?? Promise.reject()).catch(() => loadNext(besides));
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

// --- submitting, skipping, taking back --------------------------------------------------------------------------------

const goOn = async (response, besides) => {
  if (!response.ok) return complain(response);
  const progress = await partOf(response);
  const flow = await showNext(besides);
  flow.querySelector("#flow-progress").replaceWith(progress);
  show(flow);
  loadAhead();
};

// A draft that is kept renews all leases of its person: the next feature's too, if it had not ended.
document.addEventListener("draft:kept", () => {
  if (Date.now() < heldUntil) heldUntil = Date.now() + LEASE_LASTS;
});
document.addEventListener("input", (event) => {
  if (event.target.closest("[data-flow-form]")) loadAhead();
});

const submit = async (form, submitter) => {
  await settleDraft();
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
  await settleDraft();
  await goOn(await post(form.action, [...new FormData(form)]), []);
};

const undo = async (form) => {
  await settleDraft();
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
