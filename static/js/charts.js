// Draws the figures that the page carries as JSON, in the page's own type and colours, and again when the theme changes.
// Plotly is most of what a page weighs: it is fetched when a chart comes near the window.
(() => {
  "use strict";

  const PLOTLY = "/static/vendor/plotly-basic-4.1.1.min.js";
  const specs = new Map(); // chart box -> the figure as the server wrote it
  const config = { displayModeBar: false, responsive: false, showTips: false, doubleClick: false };

  // Custom properties hold light-dark() pairs in OKLCH, which plotly cannot read: let the browser paint one pixel.
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const probe = Object.assign(document.createElement("i"), { hidden: true });
  let painted = new Map();
  const paint = (reference) => {
    if (!painted.has(reference)) {
      probe.style.color = reference;
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = getComputedStyle(probe).color;
      context.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
      painted.set(reference, `rgba(${r},${g},${b},${a / 255})`);
    }
    return painted.get(reference);
  };
  const resolve = (value) => {
    if (typeof value === "string") return value.startsWith("var(--") ? paint(value) : value;
    if (Array.isArray(value)) return value.map(resolve);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item)]));
    return value;
  };

  const draw = (box) => {
    const { data, layout } = resolve(specs.get(box));
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.width = box.clientWidth;
    layout.height = box.clientHeight;
    return Plotly.react(box, data, layout, config);
  };

  const isDrawn = (box) => Boolean(box.layout); // plotly notes it there
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.clientWidth && isDrawn(target) && target.layout.width !== target.clientWidth) draw(target);
  });

  let loaded = null;
  const plotly = () => {
    loaded ??= window.Plotly
      ? Promise.resolve()
      : new Promise((resolve, reject) => {
          document.head.append(Object.assign(document.createElement("script"), { src: PLOTLY, onload: resolve, onerror: reject }));
        });
    return loaded;
  };
  const comes = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        comes.unobserve(target);
        plotly().then(
          () => {
            draw(target);
            if ("pick" in target.dataset) target.on("plotly_click", pick);
          },
          () => target.replaceChildren("The drawing could not be loaded; its numbers are under “data”."),
        );
        resized.observe(target);
      }
    },
    { rootMargin: "50% 0px" },
  );

  const start = (root) => {
    for (const box of root.querySelectorAll("[data-chart]")) {
      if (specs.has(box)) continue;
      specs.set(box, JSON.parse(box.parentElement.querySelector("script[type='application/json']").textContent));
      comes.observe(box);
    }
  };

  // A click on a bar fills in the form that draws from its range, and sends it.
  const pick = ({ points: [point] }) => {
    const form = document.getElementById("draw");
    const half = point.data.width[point.pointIndex] / 2;
    form.elements.from.value = Number((point.x - half).toPrecision(6));
    form.elements.to.value = Number((point.x + half).toPrecision(6));
    form.requestSubmit();
  };

  const redraw = () => {
    painted = new Map();
    for (const box of [...specs.keys()]) {
      if (!box.isConnected) specs.delete(box);
      else if (isDrawn(box)) draw(box);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(probe);
    start(document);
  });
  document.addEventListener("themechange", redraw);
  document.addEventListener("htmx:afterSettle", (event) => start(event.target));
  document.addEventListener("htmx:sseMessage", (event) => start(event.target));
  matchMedia("print").addEventListener("change", redraw);

  // New points of live curves: [{step, values: {metric: number}}].
  const short = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "\u2212"));
  const said = (value, axis) => (axis.tickformat?.endsWith("p") ? `${short(100 * value)}\u202f%` : short(value));
  document.addEventListener("curvepoints", (event) => {
    for (const [box, spec] of specs) {
      const figure = box.closest("[data-metric]");
      if (!figure || !box.isConnected) continue;
      for (const { x, y, meta } of spec.data) {
        for (const { step, values } of event.detail) {
          const value = values[meta];
          if (typeof value !== "number" || step <= x[x.length - 1]) continue; // a reconnected stream repeats itself
          x.push(step);
          y.push(value);
          if (spec.data.length === 1) figure.querySelector(".chart-latest").textContent = said(value, spec.layout.yaxis);
        }
      }
      if (isDrawn(box)) draw(box);
    }
  });
})();
