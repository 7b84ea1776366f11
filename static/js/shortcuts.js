// Keyboard shortcuts. A page names what they act on with data attributes: data-row (j k), and data-key="[" on a link or
// field that the key opens.
import { openKeys, singleKeysWork } from "./dialog.js";

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

// Focus a field, with the cursor after the text that it holds.
const write = (field) => {
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
};

const follow = (key) => {
  const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!target) return false;
  if (target.matches("textarea, input:not([type=radio], [type=checkbox])")) {
    for (let parent = target.closest("details"); parent; parent = parent.parentElement.closest("details")) parent.open = true;
    write(target);
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
    event.preventDefault(); // leaves the field and keeps its text
    target.blur();
    return;
  }
  if (isTyping(target) || !singleKeysWork()) return;
  let used = true;
  if (event.key === "j") moveRow(1);
  else if (event.key === "k") moveRow(-1);
  else if (event.key === "?") openKeys();
  else used = event.key.length === 1 && follow(event.key);
  if (used) event.preventDefault();
});

// A form that is unfolded by hand is ready to be written in, so that no letter of what follows is taken for a shortcut.
document.addEventListener("click", (event) => {
  const folded = event.target.closest("summary")?.parentElement;
  if (!folded?.matches("[data-writes]:not([open])")) return;
  setTimeout(() => write(folded.querySelector("textarea")));
});

// A form that the page opens, or that comes back with an error, is ready to be written in.
const writeWhereAsked = (root) => {
  const field = root.querySelector("textarea[autofocus]");
  if (field) write(field);
};
writeWhereAsked(document);
document.addEventListener("htmx:afterSettle", (event) => writeWhereAsked(event.target));

// Ctrl-Enter submits the form that the text is part of.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) {
    event.preventDefault();
    event.target.form?.requestSubmit();
  }
});
