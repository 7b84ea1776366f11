// All features of an SAE as points: by decoder direction (UMAP), or by how often and how strongly they fire.
import { element } from "./lib/element.js";
import { whenNear } from "./lib/visible.js";
import { COLOURINGS, LAYOUTS, fetchPoints, placed } from "./map/data.js";
import { draw, showLegend, showSelected, showTip } from "./map/draw.js";
import { onControls, onKeys, onPointer } from "./map/interaction.js";
import { Scale } from "./map/scale.js";

const REACH_PX = 12; // how far from a point the pointer still means it
const NAME_AFTER_MS = 120; // a pointer that only passes a point fetches nothing

// True if the pixel (x, y) is inside the polygon, by the number of its sides to the right of the pixel.
const isInside = (polygon, x, y) => {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
};

const fetchName = async (address) => {
  const response = await fetch(address).catch(() => null);
  if (!response?.ok) return null;
  const { labels, top_tokens: tokens } = await response.json();
  return labels.find(({ status }) => status === "submitted")?.explanation ?? tokens.slice(0, 4).map(({ text }) => text).join(" ");
};

const start = async (root) => {
  const canvas = root.querySelector("canvas");
  const message = root.querySelector("[data-map-message]");
  const tip = root.querySelector("[data-map-tip]");
  const form = root.querySelector("[data-map-chosen]");
  let data;
  try {
    data = await fetchPoints(root.dataset.map);
  } catch (error) {
    message.textContent = error.message || "The site does not answer: reload the page to try again.";
    return;
  }

  // Points are numbered as in `data`; `placed` are those with a position in this layout, `lasso` is its path in pixels.
  const map = { layout: null, position: null, placed: [], colouring: null, marked: -1, selected: new Set(), lasso: null };
  const scale = new Scale(canvas);

  let frame = 0;
  const redraw = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw(canvas, map, scale);
    });
  };

  const layOut = () => {
    map.layout = LAYOUTS[root.querySelector("[data-map-axes]:checked")?.value ?? root.dataset.axes];
    message.textContent = map.layout.missing(data, root.dataset.missing);
    map.position = message.textContent ? { x: [], y: [] } : map.layout.positions(data);
    map.placed = placed(map.position);
    scale.fitTo(map.position, map.placed, Boolean(map.layout.ticks));
    root.querySelector("[data-map-note]").textContent = map.layout.note(data);
  };

  const colour = () => {
    map.colouring = COLOURINGS[root.querySelector("[data-map-colour]").value](data);
    showLegend(root.querySelector("[data-map-legend]"), map.colouring.legend);
  };

  const pixelOf = (i) => [scale.toX(map.position.x[i]), scale.toY(map.position.y[i])];

  const nearest = (x, y, isAllowed = () => true, reach = REACH_PX) => {
    if (!map.placed.length) return -1;
    scale.update();
    const { x: xs, y: ys } = map.position;
    let best = -1;
    let least = reach * reach;
    for (const i of map.placed) {
      const dx = scale.toX(xs[i]) - x;
      const dy = scale.toY(ys[i]) - y;
      const distance = dx * dx + dy * dy;
      if (distance < least && isAllowed(dx, dy)) {
        least = distance;
        best = i;
      }
    }
    return best;
  };

  let naming = 0;
  const mark = (i) => {
    if (i === map.marked) return;
    map.marked = i;
    canvas.style.cursor = i >= 0 ? "pointer" : "";
    redraw();
    tip.hidden = i < 0;
    clearTimeout(naming);
    if (i < 0) return;
    showTip(tip, data, i, ...pixelOf(i), canvas.clientWidth);
    naming = setTimeout(async () => {
      const name = await fetchName(`/api/v1${root.dataset.features}/${data.index[i]}`);
      if (name === null || map.marked !== i) return;
      tip.append(element("span", { class: "map-tip-name" }, name));
    }, NAME_AFTER_MS);
  };

  // Marks the nearest point in a direction, within 45 degrees of it; at first the one nearest to the middle.
  const markNext = (right, down) => {
    const hasMark = map.marked >= 0;
    const from = hasMark ? pixelOf(map.marked) : [canvas.clientWidth / 2, canvas.clientHeight / 2];
    const isAhead = (dx, dy) => dx * right + dy * down > Math.abs(dx * down + dy * right);
    const next = nearest(...from, hasMark ? isAhead : undefined, Infinity);
    if (next >= 0) mark(next);
  };

  const zoom = (factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
    scale.zoomBy(factor, x, y);
    mark(-1);
    redraw();
  };

  const move = (dx, dy) => {
    scale.moveBy(dx, dy);
    redraw();
  };

  const select = (numbers) => {
    map.selected = new Set(numbers);
    if (form) showSelected(form, numbers.map((i) => data.index[i]), root.dataset.features);
    redraw();
  };

  const selectWithin = (polygon) => select(map.placed.filter((i) => isInside(polygon, ...pixelOf(i))));

  const reset = () => {
    scale.reset();
    select([]);
  };

  const open = (i, inNewTab) => {
    const address = `${root.dataset.features}/${data.index[i]}`;
    if (inNewTab) window.open(address);
    else location.assign(address);
  };

  const actions = { colour, layOut, mark, markNext, move, nearest, open, redraw, reset, select, selectWithin, zoom };
  onPointer(canvas, map, actions, () => root.hasAttribute("data-lasso"));
  onKeys(canvas, map, actions);
  onControls(root, actions);

  layOut();
  colour();
  draw(canvas, map, scale);
  root.dataset.ready = "";
  new ResizeObserver(redraw).observe(canvas);
  document.addEventListener("themechange", redraw);
};

const startWhenNear = whenNear("200px", start);
for (const root of document.querySelectorAll("[data-map]")) startWhenNear(root);
