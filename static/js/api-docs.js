// Gives RapiDoc, which draws in a shadow tree of its own, the colours of the page.
(() => {
  "use strict";
  const docs = document.querySelector("rapi-doc");
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  // RapiDoc computes shades from hexadecimal colours; the page's are in OKLCH, one for light and one for dark.
  const hex = (name) => {
    docs.style.color = `var(${name})`;
    pixel.fillStyle = getComputedStyle(docs).color;
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue] = pixel.getImageData(0, 0, 1, 1).data;
    return "#" + [red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("");
  };
  const paint = () => {
    docs.setAttribute("theme", document.documentElement.dataset.theme);
    docs.setAttribute("bg-color", hex("--paper"));
    docs.setAttribute("text-color", hex("--ink"));
    docs.setAttribute("primary-color", hex("--accent-ink"));
    docs.style.color = "";
  };

  paint();
  document.addEventListener("themechange", paint);
})();
