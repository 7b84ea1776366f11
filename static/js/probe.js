// The result of a probe: shades the prompt by the features that are pinned (one in the ramp, two to six in hues of
// their own), and lists the features of the token that was clicked.
import { element } from "./lib/element.js";
import { percentile, significant } from "./lib/format.js";

const STEPS = 6;
const MAX_PINNED = 6;

const nameOf = (feature) => feature.label ?? `feature ${feature.index}`;

const ramp = (maximum) => {
  const steps = Array.from({ length: STEPS }, (_, i) => element("i", { class: `a${i + 1}` }));
  return element("span", { class: "ramp", "aria-hidden": "true" }, "0 ", element("span", {}, ...steps), ` ${significant(maximum)}`);
};

const legendOf = (pinned, base) => {
  if (!pinned.length) return [element("span", {}, "No feature is switched on.")];
  const link = (feature) => element("a", { href: base + feature.index }, nameOf(feature));
  if (pinned.length === 1) {
    const [{ feature }] = pinned;
    return [element("span", { class: "probe-shaded" }, element("span", {}, "Shaded by ", link(feature)), ramp(feature.scale))];
  }
  return pinned.map(({ feature, slot }) => element("span", { class: `probe-key c${slot + 1}` }, element("span", { class: "swatch" }), link(feature)));
};

// One pinned feature shades a token in the ramp; of several, the strongest on the token gives it its hue.
const shade = (token, position, pinned) => {
  token.className = token.classList.contains("chip") ? "t chip" : "t";
  token.style.removeProperty("--strength");
  const active = pinned.map(({ feature, slot }) => ({ slot, share: (feature.activations[position] ?? 0) / feature.scale })).filter(({ share }) => share > 0);
  if (!active.length) return;
  const strongest = active.reduce((best, other) => (other.share > best.share ? other : best));
  if (pinned.length === 1) {
    token.classList.add(`a${Math.min(STEPS, Math.max(1, Math.ceil(STEPS * strongest.share)))}`);
  } else {
    token.classList.add("pinned", `c${strongest.slot + 1}`);
    token.style.setProperty("--strength", `${Math.round(30 + 70 * Math.min(1, strongest.share))}%`);
  }
};

// A feature of the token that was clicked, with a button that pins it where the result has its activations.
const rowOf = (feature, canPin, snippet, base) => {
  const [before, strongest, after] = snippet ?? ["", "", ""];
  const name = feature.label
    ? element("span", { class: "rank-name" }, feature.label)
    : element("span", { class: "line mini" },
        element("span", { class: "line-before" }, element("span", {}, before)),
        element("span", { class: "line-after" }, element("bdi", { class: "t a6 top" }, strongest), after));
  const label = `Shade by feature ${feature.index}`;
  const pin = canPin
    ? element("button", { class: "rank-pin", type: "button", "data-pin": feature.index, "aria-pressed": "false", "aria-label": label }, element("span", { class: "swatch" }))
    : element("span", {});
  return element("li", {}, pin,
    element("a", { class: "number", href: base + feature.index }, String(feature.index)),
    name,
    element("span", { class: "number" }, significant(feature.activation)),
    element("span", { class: "number faint" }, feature.percentile === null ? "–" : percentile(feature.percentile)));
};

const countText = (active, listed) => {
  if (!active) return "no feature is active on it.";
  const verb = active === 1 ? "one feature is" : `${active} features are`;
  return `${verb} active on it${active > listed ? `; the ${listed} most unusual:` : ":"}`;
};

const start = (root) => {
  const data = JSON.parse(root.querySelector("[data-probe-data]").textContent);
  const features = new Map(data.features.map((feature) => [feature.index, feature]));
  const strip = root.querySelector("[data-tokens]");
  const tokens = [...strip.querySelectorAll(".t")];
  for (const token of tokens) token.role = "button";
  const legend = root.querySelector("[data-legend]");
  const panel = root.querySelector("[data-token-panel]");
  const base = location.pathname.replace(/\/probe(\/.*)?$/, "/features/");
  const slots = new Array(MAX_PINNED).fill(null); // a feature keeps its hue while others come and go
  slots[0] = Number(root.querySelector("[data-pin][aria-pressed='true']").dataset.pin);

  const draw = () => {
    const pinned = slots.map((index, slot) => ({ feature: features.get(index), slot })).filter(({ feature }) => feature);
    legend.replaceChildren(...legendOf(pinned, base));
    tokens.forEach((token, position) => shade(token, position, pinned));
    for (const { feature } of pinned) {
      const [top] = Object.entries(feature.activations).reduce((best, other) => (other[1] > best[1] ? other : best));
      tokens[top].classList.add("top");
    }
    for (const button of root.querySelectorAll("[data-pin]")) {
      const slot = slots.indexOf(Number(button.dataset.pin));
      button.setAttribute("aria-pressed", String(slot !== -1));
      button.querySelector(".swatch").className = `swatch${slot !== -1 && pinned.length > 1 ? ` c${slot + 1}` : ""}`;
    }
    root.toggleAttribute("data-full", pinned.length === MAX_PINNED);
  };

  const toggle = (index) => {
    const slot = slots.indexOf(index);
    if (slot !== -1) slots[slot] = null;
    else if (slots.includes(null)) slots[slots.indexOf(null)] = index;
    draw();
  };

  const showToken = (chosen) => {
    const position = tokens.indexOf(chosen);
    for (const token of tokens) token.toggleAttribute("data-chosen", token === chosen);
    const listed = data.tokens[position];
    const rows = listed.map((feature) => rowOf(feature, features.has(feature.index), data.snippets[feature.index], base));
    const shown = element("bdi", { class: "token" }, ...[...chosen.childNodes].map((node) => node.cloneNode(true)));
    const text = element("span", {}, shown, ` ${countText(data.firing[position], listed.length)}`);
    const close = element("button", { class: "text-button small", type: "button", "data-close-token": "" }, "close");
    panel.replaceChildren(element("p", { class: "probe-token-head" }, text, close), element("ol", { class: "token-features" }, ...rows));
    panel.hidden = false;
    draw();
  };

  const closeToken = () => {
    panel.hidden = true;
    for (const token of tokens) token.removeAttribute("data-chosen");
  };

  const showLate = (button) => {
    for (const row of root.querySelectorAll("[data-late]")) row.removeAttribute("data-late");
    button.parentElement.remove();
  };

  root.addEventListener("click", (event) => {
    const pin = event.target.closest("[data-pin]");
    if (pin) {
      event.preventDefault(); // without this script the button asks the server
      toggle(Number(pin.dataset.pin));
      return;
    }
    const token = event.target.closest("[data-tokens] .t");
    if (token) showToken(token);
    if (event.target.closest("[data-close-token]")) closeToken();
    const late = event.target.closest("[data-show-late]");
    if (late) showLate(late);
  });
  strip.addEventListener("keydown", (event) => {
    if ((event.key === "Enter" || event.key === " ") && event.target.matches(".t")) {
      event.preventDefault();
      showToken(event.target);
    }
  });
  draw();
};

const startWithin = (part) => {
  for (const root of part.querySelectorAll("[data-probe]:not([data-started])")) {
    root.dataset.started = "";
    start(root);
  }
};
startWithin(document);
document.addEventListener("htmx:afterSwap", (event) => startWithin(event.target));
