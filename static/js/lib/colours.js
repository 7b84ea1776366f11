// Colours of the sheets for what cannot read them. Custom properties hold light-dark() pairs in OKLCH: an element
// resolves them for the theme of the page, and one painted pixel gives them in sRGB.

const probe = Object.assign(document.createElement("i"), { hidden: true });
document.body.append(probe);
const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });

// A CSS colour without custom properties, as a canvas accepts it.
export const resolve = (colour) => {
  probe.style.color = colour;
  return getComputedStyle(probe).color;
};

// Red, green, blue and alpha from 0 to 255.
export const channels = (colour) => {
  pixel.clearRect(0, 0, 1, 1);
  pixel.fillStyle = resolve(colour);
  pixel.fillRect(0, 0, 1, 1);
  return [...pixel.getImageData(0, 0, 1, 1).data];
};
