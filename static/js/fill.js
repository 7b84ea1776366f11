// Texts to take over: a click on [data-fill] writes its text into the field that data-fill-target names. With
// data-fill-adds, what somebody typed there stays, and the text follows it.

document.addEventListener("click", (event) => {
  const fill = event.target.closest("[data-fill]");
  if (!fill) return;
  event.preventDefault(); // without this script it is a link
  const field = document.getElementById(fill.dataset.fillTarget);
  const typed = "fillAdds" in fill.dataset ? field.value.trim() : "";
  field.closest("details")?.setAttribute("open", "");
  field.value = typed && typed !== fill.dataset.fill ? `${typed}\n${fill.dataset.fill}` : fill.dataset.fill;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
});
