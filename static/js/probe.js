// The probe's result: shade the prompt by the features that are switched on (one in the ramp, two to six in hues of
// their own), and list the features of the token that was clicked.
(() => {
  "use strict";

  const STEPS = 6;
  const MOST = 6;
  const number = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(3));

  const start = (root) => {
    const data = JSON.parse(root.querySelector("[data-probe-data]").textContent);
    const features = new Map(data.features.map((feature) => [feature.index, feature]));
    const strip = root.querySelector("[data-tokens]");
    const tokens = [...strip.querySelectorAll(".t")];
    for (const token of tokens) token.role = "button";
    const legend = root.querySelector("[data-legend]");
    const panel = root.querySelector("[data-token-panel]");
    const base = location.pathname.replace(/\/probe$/, "/features/");
    const slots = new Array(MOST).fill(null); // a feature keeps its hue while others come and go
    slots[0] = Number(root.querySelector("[data-pin][aria-pressed='true']").dataset.pin);

    const name = (feature) => feature.label ?? `feature ${feature.index}`;
    const element = (tag, attributes, ...children) => {
      const made = document.createElement(tag);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.append(...children);
      return made;
    };

    const ramp = (maximum) => {
      const steps = element("span", {});
      for (let i = 1; i <= STEPS; i += 1) steps.append(element("i", { class: `a${i}` }));
      return element("span", { class: "ramp", "aria-hidden": "true" }, "0 ", steps, ` ${number(maximum)}`);
    };

    const drawLegend = (on) => {
      if (!on.length) {
        legend.replaceChildren(element("span", {}, "No feature is switched on."));
      } else if (on.length === 1) {
        const [{ feature }] = on;
        const link = element("a", { href: base + feature.index }, name(feature));
        legend.replaceChildren(element("span", { class: "probe-shaded" }, element("span", {}, "Shaded by ", link), ramp(feature.scale)));
      } else {
        legend.replaceChildren(
          ...on.map(({ feature, slot }) =>
            element("span", { class: `probe-key c${slot + 1}` }, element("span", { class: "swatch" }), element("a", { href: base + feature.index }, name(feature))),
          ),
        );
      }
    };

    const drawTokens = (on) => {
      tokens.forEach((token, position) => {
        const special = token.classList.contains("chip");
        token.className = special ? "t chip" : "t";
        token.style.removeProperty("--strength");
        const here = on.map((one) => ({ ...one, share: (one.feature.activations[position] ?? 0) / one.feature.scale })).filter((one) => one.share > 0);
        if (!here.length) return;
        const strongest = here.reduce((best, one) => (one.share > best.share ? one : best));
        if (on.length === 1) {
          token.classList.add(`a${Math.min(STEPS, Math.max(1, Math.ceil(STEPS * strongest.share)))}`);
        } else {
          token.classList.add("pinned", `c${strongest.slot + 1}`);
          token.style.setProperty("--strength", `${Math.round(30 + 70 * Math.min(1, strongest.share))}%`);
        }
      });
      for (const { feature } of on) {
        const [top] = Object.entries(feature.activations).reduce((best, one) => (one[1] > best[1] ? one : best));
        tokens[top].classList.add("top");
      }
    };

    const draw = () => {
      const on = slots.map((index, slot) => ({ feature: features.get(index), slot })).filter((one) => one.feature);
      drawLegend(on);
      drawTokens(on);
      for (const button of root.querySelectorAll("[data-pin]")) {
        const slot = slots.indexOf(Number(button.dataset.pin));
        button.setAttribute("aria-pressed", String(slot !== -1));
        button.querySelector(".swatch").className = `swatch${slot !== -1 && on.length > 1 ? ` c${slot + 1}` : ""}`;
      }
      root.toggleAttribute("data-full", on.length === MOST);
    };

    const toggle = (index) => {
      const at = slots.indexOf(index);
      if (at !== -1) slots[at] = null;
      else if (slots.includes(null)) slots[slots.indexOf(null)] = index;
      draw();
    };

    const showToken = (token) => {
      const position = tokens.indexOf(token);
      for (const each of tokens) each.toggleAttribute("data-chosen", each === token);
      const found = data.tokens[position];
      const list = element("ol", { class: "token-features" });
      for (const each of found) {
        const [before, strongest, after] = data.snippets[each.index] ?? ["", "", ""];
        const text = each.label
          ? element("span", { class: "rank-name" }, each.label)
          : element("span", { class: "line mini" },
              element("span", { class: "line-before" }, element("span", {}, before)),
              element("span", { class: "line-after" }, element("bdi", { class: "t a6 top" }, strongest), after));
        const head = features.has(each.index)
          ? element("button", { class: "rank-pin", type: "button", "data-pin": each.index, "aria-pressed": "false", "aria-label": `Shade by feature ${each.index}` }, element("span", { class: "swatch" }))
          : element("span", {});
        const percentile = each.percentile === null ? "–" : (Math.floor(each.percentile * 10) / 10).toString();
        list.append(
          element("li", {}, head, element("a", { class: "number", href: base + each.index }, String(each.index)), text,
            element("span", { class: "number" }, number(each.activation)), element("span", { class: "number faint" }, percentile)),
        );
      }
      const shown = element("bdi", { class: "token" }, ...[...token.childNodes].map((node) => node.cloneNode(true)));
      const many = data.firing[position];
      const said = many ? `${many === 1 ? "one feature is" : `${many} features are`} active on it${many > found.length ? `; the ${found.length} most unusual:` : ":"}` : "no feature is active on it.";
      const close = element("button", { class: "text-button small", type: "button", "data-close-token": "" }, "close");
      panel.replaceChildren(element("p", { class: "probe-token-head" }, element("span", {}, shown, ` ${said}`), close), list);
      panel.hidden = false;
      draw();
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
      if (event.target.closest("[data-close-token]")) {
        panel.hidden = true;
        for (const each of tokens) each.removeAttribute("data-chosen");
      }
      const late = event.target.closest("[data-show-late]");
      if (late) {
        for (const row of root.querySelectorAll("[data-late]")) row.removeAttribute("data-late");
        late.parentElement.remove();
      }
    });
    strip.addEventListener("keydown", (event) => {
      if ((event.key === "Enter" || event.key === " ") && event.target.matches(".t")) {
        event.preventDefault();
        showToken(event.target);
      }
    });
    draw();
  };

  const look = (within) => {
    for (const root of within.querySelectorAll("[data-probe]:not([data-started])")) {
      root.dataset.started = "";
      start(root);
    }
  };
  document.addEventListener("DOMContentLoaded", () => look(document));
  document.addEventListener("htmx:afterSwap", (event) => look(event.target));
})();
