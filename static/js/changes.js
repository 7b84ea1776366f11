// What others do: an event says that something changed, and every part with data-live is fetched again. A part in which
// somebody writes waits until they are done. Only a visible page listens: browsers allow six connections to a site.

const page = document.querySelector("[data-changes]");
let source = null;
let after = page.dataset.after;

const isWrittenIn = (part) =>
  [...part.querySelectorAll("input:not([type=hidden]), textarea")].some(
    (field) => field === document.activeElement || field.value !== field.defaultValue,
  );

const fetchAgain = (part) => {
  htmx.process(part); // one that was swapped in just now does not listen yet
  htmx.trigger(part, "changed");
};

const refresh = () => {
  for (const part of document.querySelectorAll("[data-live]")) {
    if (isWrittenIn(part)) part.dataset.stale = "yes";
    else fetchAgain(part);
  }
};

document.addEventListener("focusout", () => {
  for (const part of document.querySelectorAll("[data-stale]")) {
    setTimeout(() => {
      if (isWrittenIn(part)) return;
      delete part.dataset.stale;
      fetchAgain(part);
    });
  }
});

// What this page saved itself is in the answer already, which names the acts. The event may come before the answer.
const own = new Set();
const saving = new Set(); // requests without an answer yet
let told = []; // acts of which events told meanwhile

const tell = (acts) => {
  told.push(...acts);
  if (saving.size) return;
  const others = told.some((act) => !own.has(act));
  told = [];
  if (others) refresh();
};

document.addEventListener("htmx:beforeSend", ({ detail }) => {
  if (detail.requestConfig.elt.closest("[data-saves]")) saving.add(detail.xhr);
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  for (const act of detail.xhr.getResponseHeader("X-SeeSAE-Acts")?.split(" ") ?? []) own.add(act);
  saving.delete(detail.xhr);
  tell([]);
});

const open = () => {
  source = new EventSource(page.dataset.after ? `${page.dataset.changes}?after=${after}` : page.dataset.changes);
  source.addEventListener("changed", (event) => {
    after = event.lastEventId || after;
    tell(event.data.split(" "));
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
