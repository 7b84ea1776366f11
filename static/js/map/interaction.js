// Pointer, wheel, keys and controls of a map, which call the actions that the entry module gives them.

const DRAG_PX = 4; // how far a pointer moves before a click becomes a drag
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// Drag moves, two fingers and the wheel zoom, a click opens a feature, and with the lasso a drag encloses points.
export const onPointer = (canvas, map, actions, lassoIsOn) => {
  const held = new Map(); // pointers that are down -> where they are
  let dragged = false;
  const pixel = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    held.set(event.pointerId, pixel(event));
    dragged = false;
    if (held.size === 1 && lassoIsOn()) map.lasso = [pixel(event)];
    if (event.pointerType === "mouse" || map.lasso) canvas.setPointerCapture(event.pointerId);
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = pixel(event);
    const before = held.get(event.pointerId);
    if (!before) {
      actions.mark(actions.nearest(x, y));
      return;
    }
    if (!dragged && Math.hypot(x - before[0], y - before[1]) < DRAG_PX) return;
    dragged = true;
    actions.mark(-1);
    if (map.lasso) {
      map.lasso.push([x, y]);
      actions.redraw();
    } else if (held.size === 2) {
      const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, where]) => where);
      const distance = Math.hypot(x - other[0], y - other[1]);
      actions.zoom(distance / Math.hypot(before[0] - other[0], before[1] - other[1]), (x + other[0]) / 2, (y + other[1]) / 2);
    } else {
      actions.move(x - before[0], y - before[1]);
    }
    held.set(event.pointerId, [x, y]);
  });

  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    const isUp = event.type === "pointerup"; // not cancelled
    if (map.lasso) {
      if (dragged && isUp) actions.selectWithin(map.lasso);
      map.lasso = null;
      actions.redraw();
    } else if (!dragged && isUp) {
      const i = actions.nearest(...pixel(event));
      if (i >= 0) actions.open(i, event.ctrlKey || event.metaKey);
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => !held.size && actions.mark(-1));
  canvas.addEventListener("blur", () => actions.mark(-1));

  const zoomByWheel = (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls
    event.preventDefault();
    actions.zoom(Math.exp(-event.deltaY / 300), ...pixel(event));
  };
  canvas.addEventListener("wheel", zoomByWheel, { passive: false });
};

// Arrow keys go from point to point, Enter opens one, + and - zoom, Escape selects nothing.
export const onKeys = (canvas, map, actions) => {
  canvas.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (direction) actions.markNext(...direction);
    else if (event.key === "Enter" && map.marked >= 0) actions.open(map.marked, event.ctrlKey || event.metaKey);
    else if (event.key === "+" || event.key === "=") actions.zoom(1.5);
    else if (event.key === "-") actions.zoom(1 / 1.5);
    else if (event.key === "Escape") actions.select([]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
};

// The controls above a map. Where the page is the map's own, its address follows them.
export const onControls = (root, actions) => {
  const remember = () => {
    if (!root.hasAttribute("data-map-address")) return;
    const query = new URLSearchParams({
      axes: root.querySelector("[data-map-axes]:checked").value,
      colour: root.querySelector("[data-map-colour]").value,
    });
    history.replaceState(history.state, "", `?${query}`);
  };

  root.addEventListener("change", (event) => {
    const isLayout = event.target.matches("[data-map-axes]");
    if (!isLayout && !event.target.matches("[data-map-colour]")) return;
    if (isLayout) {
      actions.select([]);
      actions.layOut();
    }
    actions.colour();
    actions.redraw();
    remember();
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-map-zoom]");
    if (button) actions.zoom(Number(button.dataset.mapZoom));
    if (event.target.closest("[data-map-reset]")) actions.reset();
    const lasso = event.target.closest("[data-map-lasso]");
    if (lasso) {
      const on = lasso.getAttribute("aria-pressed") !== "true";
      lasso.setAttribute("aria-pressed", String(on));
      root.toggleAttribute("data-lasso", on);
    }
  });
};
