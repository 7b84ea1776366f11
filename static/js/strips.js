// Shaded text: a note on the token under the pointer or focus, arrow keys within a strip, examples that open in place.
import { element } from "./lib/element.js";

// Without this script the title has the note; with it, the note shows at once and beside the token.
let tip = null;
let owner = null;

const textOf = (token) => {
  if (token.hasAttribute("title")) {
    token.dataset.tip = token.title;
    token.removeAttribute("title");
  }
  return token.dataset.tip;
};

const show = (token) => {
  const text = textOf(token);
  if (!text) return;
  if (!tip) {
    tip = element("div", { class: "tip", id: "tip", role: "tooltip" });
    document.getElementById("main").append(tip);
  }
  owner?.removeAttribute("aria-describedby");
  owner = token;
  owner.setAttribute("aria-describedby", "tip");
  tip.textContent = text;
  tip.hidden = false;
  const box = token.getClientRects()[0];
  if (!box) return;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
  const top = box.top - height - 8 < 0 ? box.bottom + 8 : box.top - height - 8;
  tip.style.translate = `${Math.round(left)}px ${Math.round(top)}px`;
};

const hide = () => {
  owner?.removeAttribute("aria-describedby");
  owner = null;
  if (tip) tip.hidden = true;
};

const tokenOf = (event) => event.target.closest?.(".t[title], .t[data-tip]");
document.addEventListener("pointerover", (event) => {
  if (event.target === tip) return;
  const token = tokenOf(event);
  if (token) show(token);
  else if (owner && !owner.matches(":focus-visible")) hide();
});
document.addEventListener("focusin", (event) => {
  const token = tokenOf(event);
  if (token) show(token);
});
document.addEventListener("focusout", hide);
document.addEventListener("scroll", hide, { passive: true, capture: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
});

// One tab stop per strip; arrow keys move from token to token.
document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const token = event.target.closest?.("[data-tokens] .t");
  if (!step || !token) return;
  const tokens = [...token.closest("[data-tokens]").querySelectorAll(".t[tabindex]")];
  const next = tokens[tokens.indexOf(token) + step];
  if (!next) return;
  event.preventDefault();
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

// The sequence of an example opens below its line: htmx fetches it once, later clicks hide and show it.
const opened = (line) => line.parentElement.querySelector(".example-open");
document.addEventListener("htmx:confirm", (event) => {
  const line = event.target.closest?.(".example-line");
  if (!line || !opened(line).hasChildNodes()) return;
  event.preventDefault();
  const open = line.getAttribute("aria-expanded") === "true";
  line.setAttribute("aria-expanded", String(!open));
  opened(line).hidden = open;
});
document.addEventListener("htmx:afterSwap", (event) => {
  const line = event.detail.elt.closest?.(".example")?.querySelector(".example-line");
  if (line && event.target.classList.contains("example-open")) line.setAttribute("aria-expanded", "true");
});
