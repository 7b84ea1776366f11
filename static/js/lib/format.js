// Numbers as app/web/components/formatting.py writes them, so that a script and a template show the same text.

const NARROW_SPACE = "\u202f";
const NONE = "–";

// toFixed rounds a tie away from zero, Python to the even digit. A tie is an odd multiple of 2 ** -(decimals + 1).
const fixed = (value, decimals) => {
  const isTie = Math.abs((value * 2 ** (decimals + 1)) % 2) === 1;
  const text = value.toFixed(decimals);
  if (!isTie || "02468".includes(text.at(-1))) return text;
  return (value - Math.sign(value) * 10 ** -decimals / 4).toFixed(decimals);
};

const grouped = (text) => {
  const [whole, fraction] = text.split(".");
  const groups = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return fraction === undefined ? groups : `${groups}.${fraction}`;
};

const withoutTrailingZeros = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

// 196608 -> "196,608".
export const count = (value) => grouped(String(value));

// "1 feature", "4,096 features".
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// A number with at least `digits` significant digits: 12.3, 0.0420, 1,234.
export const significant = (value, digits = 3) => {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  // The exponent of the rounded value: 9.996 is 10.0 to three digits, not 10.00.
  const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
  const text = exponent < -6 ? value.toExponential(0) : grouped(fixed(value, Math.max(0, digits - 1 - exponent)));
  return text.replaceAll("-", "\u2212");
};

// A tick of an axis: 0.5, 20, 1,000.
export const short = (value) => withoutTrailingZeros(significant(value));

// A share of 1 as per cent: 0.0034 -> "0.34 %".
export const percent = (share) => {
  const value = 100 * share;
  if (!Number.isFinite(value)) return NONE;
  let text = "0";
  if (value >= 99.95) text = fixed(value, value >= 99.995 ? 0 : 2);
  else if (value >= 10) text = fixed(value, 1);
  else if (value !== 0) text = significant(value, 2);
  return `${text}${NARROW_SPACE}%`;
};

// A round share as short as it can be: 0.0001 -> "0.01 %".
export const roundPercent = (share) => `${withoutTrailingZeros((100 * share).toFixed(10))}${NARROW_SPACE}%`;

// 99.97 -> "99.9", rounded down: 100 means stronger than all there were.
export const percentile = (value) => (value >= 100 ? "100" : (Math.floor(10 * value) / 10).toFixed(1));
