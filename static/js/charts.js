// Draws the figures that the page carries as JSON, in the page's own type and colours, and again when the theme changes.
// Plotly is most of what a page weighs: it is fetched when a chart comes near the window.
import { channels } from "./lib/colours.js";
import { percent, significant } from "./lib/format.js";
import { whenNear } from "./lib/visible.js";

const PLOTLY = "/static/vendor/plotly-basic-4.1.1.min.js";
const CONFIG = { displayModeBar: false, responsive: false, showTips: false, doubleClick: false };

const specs = new Map(); // chart box -> the figure as the server wrote it

// --- colours ---------------------------------------------------------------------------------------------------------

let painted = new Map(); // reference -> colour in the present theme

const paint = (reference) => {
  if (!painted.has(reference)) {
    const [red, green, blue, alpha] = channels(reference);
    painted.set(reference, `rgba(${red},${green},${blue},${alpha / 255})`);
  }
  return painted.get(reference);
};

const withColours = (value) => {
  if (typeof value === "string") return value.startsWith("var(--") ? paint(value) : value;
  if (Array.isArray(value)) return value.map(withColours);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withColours(item)]));
  return value;
};

// --- drawing ---------------------------------------------------------------------------------------------------------

let loading = null;
const loadPlotly = () => {
  loading ??= window.Plotly
    ? Promise.resolve()
    : new Promise((resolve, reject) => {
        document.head.append(Object.assign(document.createElement("script"), { src: PLOTLY, onload: resolve, onerror: reject }));
      });
  return loading;
};

const draw = (box) => {
  const { data, layout } = withColours(specs.get(box));
  layout.font.family = getComputedStyle(document.body).fontFamily;
  layout.width = box.clientWidth;
  layout.height = box.clientHeight;
  return Plotly.react(box, data, layout, CONFIG);
};

const isDrawn = (box) => Boolean(box.layout); // plotly puts it there

const redrawAll = () => {
  painted = new Map();
  for (const box of [...specs.keys()]) {
    if (!box.isConnected) specs.delete(box);
    else if (isDrawn(box)) draw(box);
  }
};

// A click on a bar fills in the form that draws examples from its range, and submits it.
const pick = ({ points: [point] }) => {
  const form = document.getElementById("draw");
  const half = point.data.width[point.pointIndex] / 2;
  form.elements.from.value = Number((point.x - half).toPrecision(6));
  form.elements.to.value = Number((point.x + half).toPrecision(6));
  form.requestSubmit();
};

const resizes = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.clientWidth && isDrawn(target) && target.layout.width !== target.clientWidth) draw(target);
});

const drawWhenNear = whenNear("50% 0px", (box) => {
  loadPlotly().then(
    () => {
      draw(box);
      if ("pick" in box.dataset) box.on("plotly_click", pick);
    },
    () => box.replaceChildren("The drawing could not be loaded; its numbers are under “data”."),
  );
  resizes.observe(box);
});

const start = (root) => {
  for (const box of root.querySelectorAll("[data-chart]")) {
    if (specs.has(box)) continue;
    specs.set(box, JSON.parse(box.parentElement.querySelector("script[type='application/json']").textContent));
    drawWhenNear(box);
  }
};

// --- live curves -----------------------------------------------------------------------------------------------------

const latest = (value, axis) => (axis.tickformat?.endsWith("p") ? percent(value) : significant(value));

// New points: [{step, values: {metric: number}}].
const extend = (points) => {
  for (const [box, spec] of specs) {
    const figure = box.closest("[data-metric]");
    if (!figure || !box.isConnected) continue;
    for (const { x, y, meta } of spec.data) {
      for (const { step, values } of points) {
        const value = values[meta];
        if (typeof value !== "number" || step <= x[x.length - 1]) continue; // a reconnected stream repeats itself
        x.push(step);
        y.push(value);
        if (spec.data.length === 1) figure.querySelector(".chart-latest").textContent = latest(value, spec.layout.yaxis);
      }
    }
    if (isDrawn(box)) draw(box);
  }
};

start(document);
document.addEventListener("themechange", redrawAll);
document.addEventListener("htmx:afterSettle", (event) => start(event.target));
document.addEventListener("htmx:sseMessage", (event) => start(event.target));
document.addEventListener("curvepoints", (event) => extend(event.detail));
matchMedia("print").addEventListener("change", redrawAll);
