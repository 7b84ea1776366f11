// Blind tests by keyboard: one item at a time, y and n (or 1 to 5) answer it, u takes the last answer back. Without this
// script the page is a list of all items.
import { singleKeysWork } from "./dialog.js";

const form = document.querySelector("[data-blind]");

const start = () => {
  const items = [...form.querySelectorAll("[data-item]")];
  const progress = form.querySelector("[data-progress]");
  const kept = `blind-${form.dataset.blind}`;
  const radios = (item) => [...item.querySelectorAll("input[type=radio]")];
  const answerOf = (item) => radios(item).find((radio) => radio.checked)?.value ?? "";
  let current = 0;

  const keep = () => {
    try {
      sessionStorage.setItem(kept, JSON.stringify(items.map(answerOf)));
    } catch {
      // Storage may be forbidden; the answers then last as long as the page.
    }
  };

  const show = (index, focus = true) => {
    current = Math.max(0, Math.min(index, items.length - 1));
    items.forEach((item, at) => item.classList.toggle("current", at === current));
    const done = items.filter(answerOf).length;
    const isComplete = done === items.length;
    form.classList.toggle("complete", isComplete);
    progress.textContent = isComplete ? `All ${done} answered: submit, or go back with u.` : `${current + 1} of ${items.length}`;
    if (!focus) return;
    const choices = radios(items[current]);
    (isComplete ? form.querySelector("[type=submit]") : (choices.find((radio) => radio.checked) ?? choices[0])).focus();
  };

  const answered = () => {
    keep();
    const open = items.findIndex((item) => !answerOf(item));
    show(open === -1 ? current : open);
  };

  const undo = () => {
    const last = answerOf(items[current]) ? current : current - 1;
    if (last < 0) return;
    for (const radio of radios(items[last])) radio.checked = false;
    keep();
    show(last);
  };

  try {
    JSON.parse(sessionStorage.getItem(kept) ?? "[]").forEach((value, at) => {
      for (const radio of radios(items[at])) radio.checked = radio.value === value;
    });
  } catch {
    // Nothing was kept.
  }
  form.classList.add("stepping");
  form.querySelector("[data-undo]").addEventListener("click", undo);
  // A click or a key answers; arrow keys only move between the choices of an item.
  form.addEventListener("click", (event) => {
    if (event.target.matches("input[type=radio]") && event.detail > 0) answered();
  });
  form.addEventListener("change", keep);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !singleKeysWork() || document.querySelector("dialog[open]")) return;
    const choices = radios(items[current]);
    const chosen = "intruder" in form.dataset ? choices[Number(event.key) - 1] : choices[["y", "n"].indexOf(event.key)];
    if (event.key === "u") undo();
    else if (chosen) {
      chosen.checked = true;
      answered();
    } else return;
    event.preventDefault();
  });
  const open = items.findIndex((item) => !answerOf(item));
  show(open === -1 ? items.length - 1 : open, false);
};

if (form) start();
