// All features of an SAE as points: by decoder direction (UMAP), or by how often and how strongly they fire.
// Drag moves, the buttons, + and - and the wheel (with Ctrl, or once the map has the focus) zoom, a click opens a
// feature, arrow keys go from point to point, and a lasso gathers points for a list. Drawn on a canvas: an SVG of a
// hundred thousand points would not move.
(() => {
  "use strict";

  const SHADES = 8;
  const MOST_TOPICS = 6;
  const MARGIN = { left: 52, right: 12, top: 12, bottom: 34 };
  const REACH = 12; // pixels from a point at which it is still meant

  const fetched = new Map(); // address -> promise of its points, so that two maps on a page ask once
  const points = (address) => {
    if (!fetched.has(address)) {
      fetched.set(
        address,
        fetch(address).then(async (response) => {
          const answer = await response.json();
          if (!response.ok) throw new Error(answer.detail);
          return answer;
        }),
      );
    }
    return fetched.get(address);
  };

  const percent = (share) => `${Number((100 * share).toPrecision(2)).toLocaleString("en", { maximumSignificantDigits: 2 })}\u202f%`;
  const short = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
  const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;

  // --- what is drawn: coordinates and colours of every point --------------------------------------------------------

  const AXES = {
    directions: {
      missing: (data, root) => (data.x ? "" : root.dataset.missing),
      place: (data) => ({ x: data.x, y: data.y }),
      note: () => "near is alike; the axes and far distances mean nothing",
    },
    rate: {
      missing: () => "",
      place: (data) => ({ x: data.density.map(Math.log10), y: data.max.map(Math.log10) }),
      ticks: { x: percent, y: short, xTitle: "density (log)", yTitle: "maximum (log)" },
      note: (data) => {
        const dead = data.density.filter((value) => value === 0).length;
        return dead ? `without ${count(dead, "dead feature")}` : "";
      },
    },
  };

  const shadesOf = (values, say) => {
    const known = values.filter((value) => value > 0).map(Math.log10).sort((a, b) => a - b);
    const low = known[Math.floor(0.02 * known.length)]; // a few outliers would leave all others one colour
    const high = known[Math.ceil(0.98 * known.length) - 1];
    const shade = (value) => (value > 0 ? Math.max(0, Math.min(SHADES - 1, Math.floor(((Math.log10(value) - low) / (high - low || 1)) * SHADES))) : 0);
    const colours = Array.from({ length: SHADES }, (_, i) => `color-mix(in oklab, var(--accent) ${Math.round((100 * i) / (SHADES - 1))}%, var(--map-low))`);
    return { group: values.map(shade), colours, legend: known.length ? { ramp: colours, from: `≤ ${say(10 ** low)}`, to: `≥ ${say(10 ** high)}` } : null };
  };

  const COLOURS = {
    density: (data) => shadesOf(data.density, percent),
    max: (data) => shadesOf(data.max, short),
    labels: (data) => {
      const labelled = new Set(data.labelled);
      const number = data.labelled.length;
      return {
        group: data.index.map((index) => (labelled.has(index) ? 1 : 0)),
        colours: ["var(--map-low)", "var(--accent)"],
        legend: { keys: [["var(--accent)", `labelled (${number.toLocaleString("en")})`], ["var(--map-low)", "not yet"]] },
      };
    },
    topic: (data) => {
      const sizes = new Map();
      for (const topic of data.topic) if (topic >= 0) sizes.set(topic, (sizes.get(topic) ?? 0) + 1);
      const first = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, MOST_TOPICS).map(([topic]) => topic);
      const hues = ["var(--accent)", ...[2, 3, 4, 5, 6].map((i) => `var(--series-${i})`)];
      return {
        group: data.topic.map((topic) => first.indexOf(topic) + 1),
        colours: ["var(--map-low)", ...hues],
        legend: { keys: [...first.map((topic, i) => [hues[i], data.topics[topic]]), ["var(--map-low)", "another, or none"]] },
      };
    },
  };

  // Custom properties in any colour space, as the canvas takes them.
  const resolver = Object.assign(document.createElement("i"), { hidden: true });
  const resolved = (colour) => {
    resolver.style.color = colour;
    return getComputedStyle(resolver).color;
  };

  const element = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // --- one map ------------------------------------------------------------------------------------------------------

  const start = async (root) => {
    const canvas = root.querySelector("canvas");
    const message = root.querySelector("[data-map-message]");
    const tip = root.querySelector("[data-map-tip]");
    const lasso = root.querySelector("[data-map-lasso]");
    const chosen = root.querySelector("[data-map-chosen]");
    const context = canvas.getContext("2d");
    let data;
    try {
      data = await points(root.dataset.map);
    } catch (error) {
      message.textContent = error.message || "The site does not answer: reload the page to try again.";
      return;
    }

    let axes, place, colours, xs, ys, drawn; // drawn: points that have a place
    let view = { scale: 1, x: 0, y: 0 };
    let marked = -1;
    let path = null; // of the lasso, in pixels
    let selected = new Set();
    let frame = 0;

    const inner = () => ({
      left: axes.ticks ? MARGIN.left : MARGIN.right,
      top: MARGIN.top,
      width: canvas.clientWidth - MARGIN.right - (axes.ticks ? MARGIN.left : MARGIN.right),
      height: canvas.clientHeight - MARGIN.top - (axes.ticks ? MARGIN.bottom : MARGIN.top),
    });

    const layOut = () => {
      axes = AXES[root.querySelector("[data-map-axes]:checked")?.value ?? root.dataset.axes];
      message.textContent = axes.missing(data, root);
      place = message.textContent ? { x: [], y: [] } : axes.place(data);
      drawn = [];
      for (let i = 0; i < place.x.length; i += 1) if (Number.isFinite(place.x[i]) && Number.isFinite(place.y[i])) drawn.push(i);
      const extent = (values) => {
        let low = Infinity;
        let high = -Infinity;
        for (const i of drawn) {
          low = Math.min(low, values[i]);
          high = Math.max(high, values[i]);
        }
        const pad = (high - low) * 0.03 || 1;
        return [low - pad, high + pad];
      };
      xs = extent(place.x);
      ys = extent(place.y);
      view = { scale: 1, x: 0, y: 0 };
      root.querySelector("[data-map-note]").textContent = axes.note(data);
    };

    const colour = () => {
      colours = COLOURS[root.querySelector("[data-map-colour]").value](data);
      const legend = root.querySelector("[data-map-legend]");
      const said = colours.legend;
      if (!said) legend.replaceChildren();
      else if (said.ramp) {
        const steps = element("span", { class: "map-ramp" });
        for (const each of said.ramp) steps.append(element("i", { style: `background: ${each}` }));
        legend.replaceChildren(`${said.from} `, steps, ` ${said.to}`);
      } else {
        legend.replaceChildren(...said.keys.map(([hue, name]) => element("span", { class: "map-key" }, element("i", { style: `background: ${hue}` }), name)));
      }
    };

    // Where a place is in pixels: `view` moves and scales them about the middle.
    let fitted;
    const fit = () => {
      const { left, top, width, height } = inner();
      const across = (width * view.scale) / (xs[1] - xs[0]);
      const up = (height * view.scale) / (ys[1] - ys[0]);
      fitted = {
        across,
        up,
        x: left + width / 2 + view.x - across * (xs[0] + (xs[1] - xs[0]) / 2),
        y: top + height / 2 + view.y + up * (ys[0] + (ys[1] - ys[0]) / 2),
      };
    };
    const toX = (value) => fitted.x + fitted.across * value;
    const toY = (value) => fitted.y - fitted.up * value;

    const draw = () => {
      frame = 0;
      if (!canvas.clientWidth) return;
      const ratio = devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (!drawn.length) return;
      fit();
      const box = inner();
      context.save();
      context.beginPath();
      context.rect(box.left - 4, box.top - 4, box.width + 8, box.height + 8);
      context.clip();
      const size = Math.max(1.5, Math.min(7, (drawn.length > 20_000 ? 1.6 : drawn.length > 2_000 ? 2.6 : 4) * Math.sqrt(view.scale)));
      const groups = colours.colours.map(() => []);
      for (const i of drawn) groups[colours.group[i]].push(i);
      const half = size / 2;
      groups.forEach((group, number) => {
        context.fillStyle = resolved(colours.colours[number]);
        context.globalAlpha = selected.size ? 0.25 : 0.85;
        for (const i of group) context.fillRect(toX(place.x[i]) - half, toY(place.y[i]) - half, size, size);
      });
      context.globalAlpha = 1;
      if (selected.size) {
        context.fillStyle = resolved("var(--ink)");
        for (const i of selected) context.fillRect(toX(place.x[i]) - half, toY(place.y[i]) - half, size, size);
      }
      if (path) {
        context.strokeStyle = resolved("var(--ink)");
        context.setLineDash([4, 3]);
        context.beginPath();
        for (const [x, y] of path) context.lineTo(x, y);
        context.closePath();
        context.stroke();
        context.setLineDash([]);
      }
      if (marked >= 0) {
        context.strokeStyle = resolved("var(--ink)");
        context.lineWidth = 2;
        context.beginPath();
        context.arc(toX(place.x[marked]), toY(place.y[marked]), size / 2 + 4, 0, 2 * Math.PI);
        context.stroke();
      }
      context.restore();
      if (axes.ticks) drawAxes(box);
    };
    const redraw = () => {
      if (!frame) frame = requestAnimationFrame(draw);
    };

    const drawAxes = (box) => {
      context.fillStyle = resolved("var(--ink-faint)");
      context.font = `12px ${getComputedStyle(canvas).fontFamily}`;
      const each = (from, to, act) => {
        for (let power = Math.ceil(from); power <= Math.floor(to); power += 1) act(power);
      };
      context.textAlign = "center";
      each(xs[0], xs[1], (power) => {
        const x = toX(power);
        if (x >= box.left && x <= box.left + box.width) context.fillText(axes.ticks.x(10 ** power), x, box.top + box.height + 14);
      });
      context.textAlign = "right";
      for (const step of [0, Math.log10(2), Math.log10(5)])
        each(ys[0] - step, ys[1] - step, (power) => {
          const y = toY(power + step);
          if (y >= box.top && y <= box.top + box.height) context.fillText(axes.ticks.y(10 ** (power + step)), box.left - 8, y + 4);
        });
      context.textAlign = "right";
      context.fillText(axes.ticks.xTitle, box.left + box.width, box.top + box.height + 30);
      context.textAlign = "left";
      context.fillText(axes.ticks.yTitle, box.left + 4, box.top + 10);
    };

    // --- what is under the pointer ---

    const nearest = (x, y, allowed = () => true, reach = REACH) => {
      if (!drawn.length) return -1;
      fit();
      let best = -1;
      let least = reach * reach;
      for (const i of drawn) {
        const dx = toX(place.x[i]) - x;
        const dy = toY(place.y[i]) - y;
        const distance = dx * dx + dy * dy;
        if (distance < least && allowed(dx, dy)) {
          least = distance;
          best = i;
        }
      }
      return best;
    };

    let asked = 0;
    const mark = (i) => {
      if (i === marked) return;
      marked = i;
      canvas.style.cursor = i >= 0 ? "pointer" : "";
      redraw();
      tip.hidden = i < 0;
      clearTimeout(asked);
      if (i < 0) return;
      const index = data.index[i];
      const topic = data.topic[i] >= 0 ? ` · ${data.topics[data.topic[i]]}` : "";
      const facts = `fires on ${percent(data.density[i])}, up to ${short(data.max[i])}${topic}`;
      tip.replaceChildren(element("b", {}, `feature ${index}`), element("span", {}, facts));
      const x = toX(place.x[i]);
      tip.style.translate = `${Math.round(Math.min(Math.max(0, x - 20), Math.max(0, canvas.clientWidth - 260)))}px ${Math.round(toY(place.y[i]) + 14)}px`;
      asked = setTimeout(async () => {
        const response = await fetch(`/api/v1${root.dataset.features}/${index}`).catch(() => null);
        if (!response?.ok || marked !== i) return;
        const { labels, top_tokens: tokens } = await response.json();
        const label = labels.find((each) => each.status === "submitted")?.explanation;
        tip.append(element("span", { class: "map-tip-name" }, label ?? tokens.slice(0, 4).map((token) => token.text).join(" ")));
      }, 120);
    };

    const open = (i, elsewhere) => {
      const address = `${root.dataset.features}/${data.index[i]}`;
      if (elsewhere) window.open(address);
      else location.assign(address);
    };

    // --- moving, zooming, choosing ---

    const zoom = (by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
      const { left, top, width, height } = inner();
      const scale = Math.min(60, Math.max(1, view.scale * by));
      const factor = scale / view.scale;
      const about = (at, middle, moved) => at - middle - (at - middle - moved) * factor;
      view = scale === 1 ? { scale: 1, x: 0, y: 0 } : { scale, x: about(x, left + width / 2, view.x), y: about(y, top + height / 2, view.y) };
      mark(-1);
      redraw();
    };

    const inside = (x, y) => {
      let within = false;
      for (let i = 0, j = path.length - 1; i < path.length; j = i, i += 1) {
        const [xi, yi] = path[i];
        const [xj, yj] = path[j];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
      }
      return within;
    };

    const choose = (found) => {
      selected = new Set(found);
      if (chosen) {
        chosen.hidden = !selected.size;
        chosen.querySelector("[data-map-count]").textContent = count(selected.size, "feature");
        chosen.querySelector("[name=features]").value = [...selected].map((i) => data.index[i]).join(" ");
        const shown = [...selected].slice(0, 24).map((i) => element("a", { class: "number", href: `${root.dataset.features}/${data.index[i]}` }, String(data.index[i])));
        chosen.querySelector("[data-map-some]").replaceChildren(...shown.flatMap((link) => [link, " "]), selected.size > shown.length ? "…" : "");
      }
      redraw();
    };

    const held = new Map(); // pointers that are down
    let moved = false;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      held.set(event.pointerId, at(event));
      moved = false;
      if (held.size === 1 && lasso?.getAttribute("aria-pressed") === "true") path = [at(event)];
      if (event.pointerType === "mouse" || path) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      const before = held.get(event.pointerId);
      if (!before) {
        mark(nearest(x, y));
        return;
      }
      if (!moved && Math.hypot(x - before[0], y - before[1]) < 4) return;
      moved = true;
      mark(-1);
      if (path) {
        path.push([x, y]);
      } else if (held.size === 2) {
        const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, where]) => where);
        zoom(Math.hypot(x - other[0], y - other[1]) / Math.hypot(before[0] - other[0], before[1] - other[1]), (x + other[0]) / 2, (y + other[1]) / 2);
      } else {
        view = { ...view, x: view.x + x - before[0], y: view.y + y - before[1] };
      }
      held.set(event.pointerId, [x, y]);
      redraw();
    });
    const release = (event) => {
      if (!held.delete(event.pointerId)) return;
      if (path) {
        if (moved && event.type === "pointerup") choose(drawn.filter((i) => inside(toX(place.x[i]), toY(place.y[i]))));
        path = null;
        redraw();
      } else if (!moved && event.type === "pointerup") {
        const i = nearest(...at(event));
        if (i >= 0) open(i, event.ctrlKey || event.metaKey);
      }
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => !held.size && mark(-1));
    canvas.addEventListener("blur", () => mark(-1));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls
        event.preventDefault();
        zoom(Math.exp(-event.deltaY / 300), ...at(event));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const towards = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (towards) {
        const from = marked >= 0 ? [toX(place.x[marked]), toY(place.y[marked])] : [canvas.clientWidth / 2, canvas.clientHeight / 2];
        const ahead = (dx, dy) => dx * towards[0] + dy * towards[1] > Math.abs(dx * towards[1] + dy * towards[0]);
        const next = nearest(...from, marked >= 0 ? ahead : undefined, Infinity);
        if (next >= 0) mark(next);
      } else if (event.key === "Enter" && marked >= 0) open(marked, event.ctrlKey || event.metaKey);
      else if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (event.key === "Escape") choose([]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });

    // --- controls ---

    const remember = () => {
      if (!root.hasAttribute("data-map-address")) return;
      const query = new URLSearchParams({
        axes: root.querySelector("[data-map-axes]:checked").value,
        colour: root.querySelector("[data-map-colour]").value,
      });
      history.replaceState(history.state, "", `?${query}`);
    };
    root.addEventListener("change", (event) => {
      if (event.target.matches("[data-map-axes]")) {
        choose([]);
        layOut();
      }
      if (event.target.matches("[data-map-axes], [data-map-colour]")) {
        colour();
        redraw();
        remember();
      }
    });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-map-zoom]");
      if (button) zoom(Number(button.dataset.mapZoom));
      if (event.target.closest("[data-map-reset]")) {
        view = { scale: 1, x: 0, y: 0 };
        choose([]);
      }
    });
    lasso?.addEventListener("click", () => {
      const on = lasso.getAttribute("aria-pressed") !== "true";
      lasso.setAttribute("aria-pressed", String(on));
      root.toggleAttribute("data-lasso", on);
    });

    layOut();
    colour();
    draw();
    root.dataset.ready = "";
    new ResizeObserver(redraw).observe(canvas);
    document.addEventListener("themechange", redraw);
  };

  // Points are fetched when a map comes into sight.
  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(resolver);
    const seen = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (!isIntersecting) continue;
          seen.unobserve(target);
          start(target);
        }
      },
      { rootMargin: "200px" },
    );
    for (const root of document.querySelectorAll("[data-map]")) seen.observe(root);
  });
})();
