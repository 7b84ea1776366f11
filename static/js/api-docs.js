// Gives RapiDoc, which draws in a shadow tree of its own, the API's description and the colours of the page. It computes
// shades from hexadecimal colours.
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

const state = document.querySelector("[data-api-state]");
docs.addEventListener("spec-loaded", () => (state.hidden = true));

const readDescription = async () => {
  const answer = await fetch(docs.dataset.spec);
  if (!answer.ok) throw new Error(`the site answered with ${answer.status}`);
  return answer.json();
};

// RapiDoc spells out what each answer refers to. All problems have one shape, which the page says once: to spell it out
// hundreds of times took two thirds of the time until the page was there.
const withoutProblems = (description) => {
  for (const operations of Object.values(description.paths))
    for (const { responses } of Object.values(operations))
      for (const answer of Object.values(responses)) {
        delete answer.content?.["application/problem+json"];
        if (Object.keys(answer.content ?? {}).length === 0) delete answer.content;
      }
  return description;
};

try {
  // Scripts of a page run in its order, so RapiDoc's has run by now if it could be loaded.
  if (!customElements.get("rapi-doc")) throw new Error("the script that draws it is missing");
  await docs.loadSpec(withoutProblems(await readDescription()));
  if (docs.loadFailed) throw new Error("it is not what the page can draw");
} catch (error) {
  state.textContent = `The API's description could not be read (${error.message}). Reload this page to try again.`;
}
