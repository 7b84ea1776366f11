// A list: moves its features by Alt+↑ and Alt+↓.

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
