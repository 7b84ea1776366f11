// Tells what htmx is doing: a request that takes longer than 100 ms shows what it does (data-busy), after a second for
// how long; its result (data-said) is announced to screen readers; a request that failed leaves a notice.
import { element } from "./lib/element.js";

const status = document.getElementById("status");
const notice = document.getElementById("notice");
const waiting = new Set(); // requests

const startWaiting = ({ detail: { elt, target, xhr } }) => {
  const words = elt.closest("[data-busy]")?.dataset.busy ?? "Working";
  if (!words) return; // it says itself what it waits for
  const since = performance.now();
  const seconds = element("span", { "aria-hidden": "true" }); // screen readers do not announce every second
  let timer;
  const show = () => {
    if (!seconds.isConnected) status.replaceChildren(words, seconds);
    status.classList.remove("visually-hidden");
    target.ariaBusy = "true";
    const passed = Math.floor((performance.now() - since) / 1000);
    if (passed) seconds.textContent = ` · ${passed} s`;
    timer = setTimeout(show, 1000);
  };
  timer = setTimeout(show, 100);
  waiting.add(xhr);
  xhr.addEventListener("loadend", () => { // htmx tells nobody of an answer to a form that was replaced meanwhile
    clearTimeout(timer);
    waiting.delete(xhr);
    target.ariaBusy = null;
    if (waiting.size) return;
    status.classList.add("visually-hidden");
    status.replaceChildren();
  });
};

document.addEventListener("htmx:beforeSend", startWaiting);
document.addEventListener("htmx:afterSettle", (event) => {
  const result = event.detail.target?.querySelector("[data-said]"); // a server-sent event has no target
  if (result) status.textContent = result.textContent;
});

// htmx swaps nothing when the server does not answer.
document.addEventListener("htmx:sendError", () => {
  const title = element("p", {}, element("b", {}, "The site does not answer"));
  const detail = element("p", {}, "Check that seesae serve is still running, then try again. What you wrote is still here.");
  notice.replaceChildren(element("div", { class: "notice error" }, title, detail));
});
document.addEventListener("htmx:beforeRequest", ({ target }) => {
  if (!("live" in target.dataset)) notice.replaceChildren(); // else nobody asked for anything
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-dismiss]")) notice.replaceChildren();
});
