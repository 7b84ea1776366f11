// What others do: an event says that something changed, and every part with data-live is fetched again. A part in which
// somebody writes waits until they are done. Only a visible page listens: browsers allow six connections to a site.

const page = document.querySelector("[data-changes]");
let source = null;
let after = page.dataset.after;

const isWrittenIn = (part) =>
  [...part.querySelectorAll("input:not([type=hidden]), textarea")].some(
    (field) => field === document.activeElement || field.value !== field.defaultValue,
  );

const refresh = () => {
  for (const part of document.querySelectorAll("[data-live]")) {
    if (isWrittenIn(part)) part.dataset.stale = "yes";
    else htmx.trigger(part, "changed");
  }
};

document.addEventListener("focusout", () => {
  for (const part of document.querySelectorAll("[data-stale]")) {
    setTimeout(() => {
      if (isWrittenIn(part)) return;
      delete part.dataset.stale;
      htmx.trigger(part, "changed");
    });
  }
});

// What this page saves itself is in the answer already.
let saved = -Infinity;
let saving = 0;
document.addEventListener("htmx:beforeSend", ({ detail: { requestConfig } }) => {
  if (requestConfig.verb !== "get") saving += 1;
});
document.addEventListener("htmx:afterRequest", ({ detail: { requestConfig } }) => {
  if (requestConfig.verb === "get") return;
  saving -= 1;
  saved = performance.now();
});
const isSavedHere = () => saving > 0 || performance.now() - saved < 2000;

const open = () => {
  source = new EventSource(page.dataset.after ? `${page.dataset.changes}?after=${after}` : page.dataset.changes);
  source.addEventListener("changed", (event) => {
    after = event.lastEventId || after;
    if (event.data !== "own" || !isSavedHere()) refresh();
  });
  source.addEventListener("missed", () => setTimeout(refresh, 3000 * Math.random())); // not all pages at once
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) setTimeout(follow, 30_000); // the site refused, or was not there
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
