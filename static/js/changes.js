// What others do: an event says that something changed, and every part with data-live, which has its address, is
// fetched again. A part in which somebody writes waits until they are done. Only a visible page listens: browsers allow
// six connections to a site.

const page = document.querySelector("[data-changes]");
let source = null;
let after = page.dataset.after;

const isWrittenIn = (part) =>
  part.querySelector(".notice.error") || // what was refused is still to be mended
  [...part.querySelectorAll("input:not([type=hidden]), textarea")].some(
    (field) => field === document.activeElement || field.value !== field.defaultValue,
  );

// Nothing is fetched while an answer is under way that replaces a part: of two, the older might come last.
const underWay = new Set();
let isOld = false; // the parts may lack what happened
const RETRY = 30_000;

// What this page saved itself is in the answer already, which names the acts. The event may come before the answer.
const own = new Set();
let told = [];

const catchUp = () => {
  if (underWay.size) return;
  isOld ||= told.some((act) => !own.has(act));
  told = [];
  if (!isOld) return;
  isOld = false;
  for (const part of document.querySelectorAll("[data-live]")) {
    if (isWrittenIn(part)) part.dataset.stale = "yes";
    else htmx.ajax("GET", part.dataset.live, { source: part, target: part }).catch(() => {}); // announce.js says it
  }
};

const refresh = () => {
  isOld = true;
  catchUp();
};

const refreshSoon = () => setTimeout(refresh, 3000 * Math.random()); // not all pages at once

document.addEventListener("htmx:beforeSend", ({ detail: { requestConfig, xhr } }) => {
  const isSaving = requestConfig.elt.closest("[data-saves]");
  if (!isSaving && !requestConfig.elt.closest("[data-live]")) return;
  if (!isSaving) xhr.timeout = RETRY; // nothing is fetched meanwhile
  else if (underWay.size) isOld = true; // what was asked for before may be answered after
  underWay.add(xhr);
  xhr.addEventListener("loadend", () => {
    for (const act of xhr.getResponseHeader("X-SeeSAE-Acts")?.split(" ") ?? []) own.add(act);
    underWay.delete(xhr);
    if (!isSaving && (xhr.status === 0 || xhr.status >= 429)) setTimeout(refresh, RETRY); // it was not fetched
    catchUp();
  });
});

document.addEventListener("focusout", () => {
  setTimeout(() => {
    const done = [...document.querySelectorAll("[data-stale]")].filter((part) => !isWrittenIn(part));
    for (const part of done) delete part.dataset.stale;
    if (done.length) refresh();
  });
});

const open = () => {
  source = new EventSource(after ? `${page.dataset.changes}?after=${after}` : page.dataset.changes);
  source.addEventListener("open", () => {
    if (!after) refreshSoon(); // the site cannot tell what happened before
  });
  source.addEventListener("changed", (event) => {
    after = event.lastEventId || after;
    told.push(...event.data.split(" "));
    catchUp();
  });
  source.addEventListener("missed", refreshSoon);
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) setTimeout(follow, RETRY); // the site refused, or was not there
  });
};

const follow = () => {
  source?.close();
  source = null;
  if (!document.hidden) open();
};

document.addEventListener("visibilitychange", follow);
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", follow);

// What the reader had opened stays open.
const opened = new Set();
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { target, requestConfig } = detail;
  if (requestConfig.verb !== "get") delete target.dataset.stale; // the answer has what is new
  else if ("live" in target.dataset && isWrittenIn(target)) {
    detail.shouldSwap = false; // somebody began to write while it was fetched
    target.dataset.stale = "yes";
  }
  opened.clear();
  for (const part of target.querySelectorAll("details[data-keep][open]")) opened.add(part.dataset.keep);
});
document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
  for (const part of target?.querySelectorAll("details[data-keep]") ?? []) part.open = opened.has(part.dataset.keep);
});
