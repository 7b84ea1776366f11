// Server-sent events of a run: fragments are swapped by htmx's extension; points of curves go to the charts as data.

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (event.detail.type !== "metrics") return;
  event.preventDefault(); // not HTML
  document.dispatchEvent(new CustomEvent("curvepoints", { detail: JSON.parse(event.detail.data) }));
});

// The run has ended: fetch what it made.
document.addEventListener("htmx:sseClose", (event) => {
  if (event.detail.type !== "message") return;
  const saes = document.getElementById("saes");
  if (saes) htmx.ajax("GET", "/", { target: saes, swap: "outerHTML" });
  const details = document.querySelector("[data-after-end]");
  if (details) htmx.ajax("GET", location.pathname + location.search, { target: details, swap: "outerHTML", select: "[data-after-end]" });
});
