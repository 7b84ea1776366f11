// Examples to try: a click on [data-fill] writes its text into the field that data-fill-target names.

document.addEventListener("click", (event) => {
  const fill = event.target.closest("[data-fill]");
  if (!fill) return;
  event.preventDefault(); // without this script it is a link
  const field = document.getElementById(fill.dataset.fillTarget);
  field.value = fill.dataset.fill;
  field.focus();
});
