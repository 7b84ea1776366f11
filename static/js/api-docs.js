// Gives RapiDoc, which draws in a shadow tree of its own, the colours of the page. It computes shades from hexadecimal
// colours.
import { channels } from "./lib/colours.js";

const docs = document.querySelector("rapi-doc");

const hex = (name) => {
  const [red, green, blue] = channels(`var(${name})`);
  return "#" + [red, green, blue].map((channel) => channel.toString(16).padStart(2, "0")).join("");
};

const paint = () => {
  docs.setAttribute("theme", document.documentElement.dataset.theme);
  docs.setAttribute("bg-color", hex("--paper"));
  docs.setAttribute("text-color", hex("--ink"));
  docs.setAttribute("primary-color", hex("--accent-ink"));
};

paint();
document.addEventListener("themechange", paint);
