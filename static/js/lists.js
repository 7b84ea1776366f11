// A list: copies its link to the clipboard, and moves its features by Alt+↑ and Alt+↓.

const copy = document.querySelector("[data-copy-link]");
copy.hidden = !navigator.clipboard; // plain http has none; the address bar has the link
copy.addEventListener("click", async () => {
  const words = copy.firstElementChild;
  try {
    await navigator.clipboard.writeText(new URL(copy.dataset.copyLink, location.href).href);
    words.textContent = "Link copied";
  } catch {
    words.textContent = "Copy it from the address bar";
  }
  setTimeout(() => (words.textContent = "Copy link"), 3000);
});

document.addEventListener("keydown", (event) => {
  const direction = { ArrowUp: "up", ArrowDown: "down" }[event.key];
  if (!direction || !event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const button = event.target.closest(".list-item")?.querySelector(`[name=direction][value=${direction}]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

// htmx returns the focus to the element that had it, which may have moved out of sight.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id === "items") document.activeElement?.closest(".list-item")?.scrollIntoView({ block: "nearest" });
});
