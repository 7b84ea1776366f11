// Back shows a page as the browser keeps it. If something was saved in this tab (a form with data-saves), it may be
// out of date, and is loaded again.

const remembered = (write) => {
  try {
    if (write) sessionStorage.setItem("saved", "yes");
    return sessionStorage.getItem("saved");
  } catch {
    return null; // storage may be forbidden
  }
};

document.addEventListener("htmx:beforeSend", ({ detail: { requestConfig, xhr } }) => {
  if (!requestConfig.elt.closest("[data-saves]")) return;
  xhr.addEventListener("load", () => {
    if (xhr.status < 400) remembered(true);
  });
});

addEventListener("pageshow", ({ persisted }) => {
  const [navigation] = performance.getEntriesByType("navigation");
  if ((persisted || navigation?.type === "back_forward") && remembered(false)) location.reload();
});
