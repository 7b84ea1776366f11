// What a map shows: points and axes on its canvas, the legend, the note on a point, and the points that are selected.
// A canvas, because an SVG of a hundred thousand points would not move.
import { resolve } from "../lib/colours.js";
import { element } from "../lib/element.js";
import { percent, plural, significant } from "../lib/format.js";

const MAX_LISTED = 24;
const TIP_WIDTH = 260;

const pointSize = (points, zoom) => {
  const size = points > 20_000 ? 1.6 : points > 2_000 ? 2.6 : 4;
  return Math.max(1.5, Math.min(7, size * Math.sqrt(zoom)));
};

const drawPoints = (context, map, scale, size) => {
  const { colouring } = map;
  const { x, y } = map.position;
  const half = size / 2;
  const drawAll = (numbers) => {
    for (const i of numbers) context.fillRect(scale.toX(x[i]) - half, scale.toY(y[i]) - half, size, size);
  };
  const groups = colouring.colours.map(() => []);
  for (const i of map.placed) groups[colouring.group[i]].push(i);
  context.globalAlpha = map.selected.size ? 0.25 : 0.85;
  groups.forEach((group, number) => {
    context.fillStyle = resolve(colouring.colours[number]);
    drawAll(group);
  });
  context.globalAlpha = 1;
  if (map.selected.size) {
    context.fillStyle = resolve("var(--ink)");
    drawAll(map.selected);
  }
};

const drawLasso = (context, lasso) => {
  context.strokeStyle = resolve("var(--ink)");
  context.setLineDash([4, 3]);
  context.beginPath();
  for (const [x, y] of lasso) context.lineTo(x, y);
  context.closePath();
  context.stroke();
  context.setLineDash([]);
};

const drawMark = (context, x, y, size) => {
  context.strokeStyle = resolve("var(--ink)");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, size / 2 + 4, 0, 2 * Math.PI);
  context.stroke();
};

// Ticks at powers of ten, on the y axis also at twice and five times them: both axes are logarithms.
const drawAxes = (context, scale, ticks, box, font) => {
  const powers = (from, to) => Array.from({ length: Math.max(0, Math.floor(to) - Math.ceil(from) + 1) }, (_, i) => Math.ceil(from) + i);
  context.fillStyle = resolve("var(--ink-faint)");
  context.font = `12px ${font}`;
  context.textAlign = "center";
  for (const power of powers(...scale.xs)) {
    const x = scale.toX(power);
    if (x >= box.left && x <= box.left + box.width) context.fillText(ticks.x(10 ** power), x, box.top + box.height + 14);
  }
  context.textAlign = "right";
  for (const step of [0, Math.log10(2), Math.log10(5)]) {
    for (const power of powers(scale.ys[0] - step, scale.ys[1] - step)) {
      const y = scale.toY(power + step);
      if (y >= box.top && y <= box.top + box.height) context.fillText(ticks.y(10 ** (power + step)), box.left - 8, y + 4);
    }
  }
  context.fillText(ticks.xTitle, box.left + box.width, box.top + box.height + 30);
  context.textAlign = "left";
  context.fillText(ticks.yTitle, box.left + 4, box.top + 10);
};

export const draw = (canvas, map, scale) => {
  if (!canvas.clientWidth) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (!map.placed.length) return;
  scale.update();
  const { box } = scale;
  context.save();
  context.beginPath();
  context.rect(box.left - 4, box.top - 4, box.width + 8, box.height + 8);
  context.clip();
  const size = pointSize(map.placed.length, scale.zoom);
  drawPoints(context, map, scale, size);
  if (map.lasso) drawLasso(context, map.lasso);
  const { x, y } = map.position;
  if (map.marked >= 0) drawMark(context, scale.toX(x[map.marked]), scale.toY(y[map.marked]), size);
  context.restore();
  if (map.layout.ticks) drawAxes(context, scale, map.layout.ticks, box, getComputedStyle(canvas).fontFamily);
};

export const showLegend = (place, legend) => {
  const swatch = (colour) => element("i", { style: `background: ${colour}` });
  const { ramp, from, to, keys = [] } = legend ?? {};
  const scale = ramp ? [`${from} `, element("span", { class: "map-ramp" }, ...ramp.map(swatch)), ` ${to}`] : [];
  place.replaceChildren(...scale, ...keys.map(([colour, name]) => element("span", { class: "map-key" }, swatch(colour), name)));
};

// The note below the point `i`, whose pixel is (x, y) on a canvas of this width.
export const showTip = (tip, data, i, x, y, width) => {
  const topic = data.topic[i] >= 0 ? ` · ${data.topics[data.topic[i]]}` : "";
  const facts = `fires on ${percent(data.density[i])}, up to ${significant(data.max[i])}${topic}`;
  tip.replaceChildren(element("b", {}, `feature ${data.index[i]}`), element("span", {}, facts));
  tip.style.translate = `${Math.round(Math.min(Math.max(0, x - 20), Math.max(0, width - TIP_WIDTH)))}px ${Math.round(y + 14)}px`;
};

// The form that makes a list of the features `indices`.
export const showSelected = (form, indices, base) => {
  form.hidden = !indices.length;
  form.querySelector("[data-map-count]").textContent = plural(indices.length, "feature");
  form.querySelector("[name=features]").value = indices.join(" ");
  const links = indices.slice(0, MAX_LISTED).map((index) => element("a", { class: "number", href: `${base}/${index}` }, String(index)));
  form.querySelector("[data-map-some]").replaceChildren(...links.flatMap((link) => [link, " "]), indices.length > links.length ? "…" : "");
};
