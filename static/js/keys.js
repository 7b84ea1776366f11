// Keyboard, and the small manners that every page shares. A page names what keys act on with data attributes:
// data-row (j k), data-search (/), data-key="[" on a link or button that the key should follow.
(() => {
  "use strict";

  // Single keys can be switched off, for people whose voice or aids type by themselves. Every tab reads the same store.
  let keysWork = true;
  const remembered = () => {
    try {
      keysWork = localStorage.getItem("keys") !== "off";
    } catch {
      // storage may be forbidden: then it holds for this page
    }
    return keysWork;
  };
  const remember = (on) => {
    keysWork = on;
    try {
      localStorage.setItem("keys", on ? "on" : "off");
    } catch {
      // as above
    }
  };
  const openKeys = () => {
    const dialog = document.getElementById("keys");
    dialog.querySelector("[data-shortcuts]").checked = remembered();
    dialog.showModal();
  };

  const isTyping = (element) => element.closest("input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable]");
  const isVisible = (element) => element.getClientRects().length > 0;

  const moveRow = (by) => {
    const rows = [...document.querySelectorAll("[data-row]")].filter(isVisible);
    if (!rows.length) return;
    const current = rows.indexOf(document.activeElement);
    const next = current === -1 ? (by > 0 ? 0 : rows.length - 1) : current + by;
    const more = document.querySelector("[data-more]");
    if (next >= rows.length && more) more.click();
    const row = rows[Math.max(0, Math.min(next, rows.length - 1))];
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };

  const follow = (key) => {
    const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!target) return false;
    if (target.matches("textarea, input")) {
      for (let parent = target.closest("details"); parent; parent = parent.parentElement.closest("details")) parent.open = true;
      target.focus();
      target.scrollIntoView({ block: "center" });
    } else if (target.getAttribute("aria-disabled") !== "true") {
      target.click();
    }
    return true;
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const [target] = event.composedPath(); // a field may be in a shadow tree
    if (event.key === "Escape" && isTyping(target)) {
      event.preventDefault(); // leave the field, and leave the text in it
      target.blur();
      return;
    }
    if (isTyping(target) || !remembered()) return;
    let used = true;
    if (event.key === "j") moveRow(1);
    else if (event.key === "k") moveRow(-1);
    else if (event.key === "?") openKeys();
    else used = event.key.length === 1 && follow(event.key);
    if (used) event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-open-keys]")) openKeys();
    if (event.target.closest("[data-dismiss]")) document.getElementById("notice").replaceChildren();
    if (event.target.matches("dialog")) event.target.close(); // a click beside it
    const fill = event.target.closest("[data-fill]");
    if (fill) {
      event.preventDefault(); // without this script it is a link
      const field = document.getElementById(fill.dataset.fillTarget);
      field.value = fill.dataset.fill;
      field.focus();
    }
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-shortcuts]")) remember(event.target.checked);
  });

  // Ctrl-Enter sends the form that one is writing in.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) {
      event.preventDefault();
      event.target.form?.requestSubmit();
    }
  });

  // What takes longer than a tenth of a second says what it does (data-busy), and after a second for how long it has.
  // When it is done, what came of it (data-said) is left there for screen readers.
  const status = document.getElementById("status");
  const waiting = new Map(); // request -> its timer
  const startWaiting = ({ detail: { elt, target, xhr } }) => {
    const words = elt.closest("[data-busy]")?.dataset.busy ?? "Working";
    const since = performance.now();
    const seconds = document.createElement("span");
    seconds.ariaHidden = "true"; // a screen reader is not told every second
    const show = () => {
      if (!seconds.isConnected) status.replaceChildren(words, seconds);
      status.classList.remove("visually-hidden");
      target.ariaBusy = "true";
      const passed = Math.floor((performance.now() - since) / 1000);
      if (passed) seconds.textContent = ` · ${passed} s`;
      waiting.set(xhr, setTimeout(show, 1000));
    };
    waiting.set(xhr, setTimeout(show, 100));
  };
  const stopWaiting = ({ detail: { target, xhr } }) => {
    clearTimeout(waiting.get(xhr));
    waiting.delete(xhr);
    target.ariaBusy = null;
    if (waiting.size) return;
    status.classList.add("visually-hidden");
    status.replaceChildren();
  };
  document.addEventListener("htmx:beforeSend", startWaiting);
  document.addEventListener("htmx:afterRequest", stopWaiting);
  document.addEventListener("htmx:afterSettle", (event) => {
    const said = event.detail.target?.querySelector("[data-said]"); // what came over SSE has no target
    if (said) status.textContent = said.textContent;
  });

  // Nothing was swapped: say so, because htmx alone would be silent.
  const say = (title, detail) => {
    const note = document.createElement("div");
    note.className = "notice error";
    const head = document.createElement("p");
    head.append(Object.assign(document.createElement("b"), { textContent: title }));
    note.append(head, Object.assign(document.createElement("p"), { textContent: detail }));
    document.getElementById("notice").replaceChildren(note);
  };
  document.addEventListener("htmx:sendError", () =>
    say("The site does not answer", "Check that seesae serve is still running, then try again. What you wrote is still here."),
  );
  document.addEventListener("htmx:beforeRequest", () => document.getElementById("notice").replaceChildren());
})();
