// Runs before the first paint, so that no page flashes in the other theme: a classic script, because modules are deferred.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");

  const remembered = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    root.dataset.theme = remembered() ?? (system.matches ? "dark" : "light");
    document.dispatchEvent(new Event("themechange"));
  };

  apply();
  system.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab switched

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-toggle-theme]")) return;
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", next);
      apply();
    } catch {
      root.dataset.theme = next;
      document.dispatchEvent(new Event("themechange"));
    }
  });
})();
