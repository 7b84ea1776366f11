// A list that somebody keeps: its link to the clipboard, and its features moved by Alt+↑ and Alt+↓.
(() => {
  "use strict";

  const copy = document.querySelector("[data-copy-link]");
  copy.hidden = !navigator.clipboard; // over plain http there is none: the address bar has the link
  copy.addEventListener("click", async () => {
    const said = copy.firstElementChild;
    try {
      await navigator.clipboard.writeText(new URL(copy.dataset.copyLink, location.href).href);
      said.textContent = "Link copied";
    } catch {
      said.textContent = "Copy it from the address bar";
    }
    setTimeout(() => (said.textContent = "Copy link"), 3000);
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

  // htmx gives the focus back to what had it; that may have moved out of sight.
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id === "items") document.activeElement?.closest(".list-item")?.scrollIntoView({ block: "nearest" });
  });
})();
