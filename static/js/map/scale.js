// Where positions of points are in pixels of the canvas, as it is zoomed and moved.

const MARGIN = { left: 52, right: 12, top: 12, bottom: 34 };
const MAX_ZOOM = 60;

const extent = (values, numbers) => {
  let low = Infinity;
  let high = -Infinity;
  for (const i of numbers) {
    low = Math.min(low, values[i]);
    high = Math.max(high, values[i]);
  }
  const pad = (high - low) * 0.03 || 1;
  return [low - pad, high + pad];
};

export class Scale {
  constructor(canvas) {
    this.canvas = canvas;
    this.reset();
  }

  // Fits the points `numbers` of these positions into the canvas, with room for ticks if there are any.
  fitTo({ x, y }, numbers, hasTicks) {
    this.xs = extent(x, numbers);
    this.ys = extent(y, numbers);
    this.hasTicks = hasTicks;
    this.reset();
  }

  reset() {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
  }

  // The part of the canvas that points are drawn in.
  get box() {
    const left = this.hasTicks ? MARGIN.left : MARGIN.right;
    const bottom = this.hasTicks ? MARGIN.bottom : MARGIN.top;
    return {
      left,
      top: MARGIN.top,
      width: this.canvas.clientWidth - MARGIN.right - left,
      height: this.canvas.clientHeight - MARGIN.top - bottom,
    };
  }

  // Brings toX and toY up to date with the size of the canvas, the zoom and the shift. Both act about the middle.
  update() {
    const { left, top, width, height } = this.box;
    const [[x0, x1], [y0, y1]] = [this.xs, this.ys];
    this.across = (width * this.zoom) / (x1 - x0);
    this.up = (height * this.zoom) / (y1 - y0);
    this.originX = left + width / 2 + this.x - this.across * (x0 + (x1 - x0) / 2);
    this.originY = top + height / 2 + this.y + this.up * (y0 + (y1 - y0) / 2);
  }

  toX(value) {
    return this.originX + this.across * value;
  }

  toY(value) {
    return this.originY - this.up * value;
  }

  moveBy(dx, dy) {
    this.x += dx;
    this.y += dy;
  }

  // Zooms by a factor and keeps the pixel (x, y) where it is.
  zoomBy(factor, x, y) {
    const { left, top, width, height } = this.box;
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const ratio = zoom / this.zoom;
    if (zoom === 1) {
      this.reset();
      return;
    }
    this.zoom = zoom;
    this.x = x - (left + width / 2) - (x - (left + width / 2) - this.x) * ratio;
    this.y = y - (top + height / 2) - (y - (top + height / 2) - this.y) * ratio;
  }
}
