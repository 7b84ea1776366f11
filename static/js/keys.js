// Keyboard, and the small manners that every page shares. A page names what keys act on with data attributes:
// data-row (j k), data-search (/), data-key="[" on a link or button that the key should follow.
(() => {
  "use strict";

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
    if (event.key === "Escape" && isTyping(event.target)) {
      event.preventDefault(); // leave the field, and leave the text in it
      event.target.blur();
      return;
    }
    if (isTyping(event.target)) return;
    let used = true;
    if (event.key === "j") moveRow(1);
    else if (event.key === "k") moveRow(-1);
    else if (event.key === "?") document.getElementById("keys").showModal();
    else used = event.key.length === 1 && follow(event.key);
    if (used) event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-open-keys]")) document.getElementById("keys").showModal();
    if (event.target.closest("[data-dismiss]")) document.getElementById("notice").replaceChildren();
    if (event.target.matches("dialog")) event.target.close(); // a click beside it
    const fill = event.target.closest("[data-fill]");
    if (fill) {
      const field = document.getElementById(fill.dataset.fillTarget);
      field.value = fill.dataset.fill;
      field.focus();
    }
  });

  // Ctrl-Enter sends the form that one is writing in.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) {
      event.preventDefault();
      event.target.form?.requestSubmit();
    }
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
