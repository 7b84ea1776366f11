// The points of a map: how they are fetched, laid out and coloured.
import { count, percent, plural, roundPercent, short, significant } from "../lib/format.js";

const SHADES = 8;
const MAX_TOPICS = 6;

const fetched = new Map(); // address -> promise of its points: two maps on a page fetch them once

export const fetchPoints = (address) => {
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

// --- layouts ---------------------------------------------------------------------------------------------------------

export const LAYOUTS = {
  directions: {
    missing: (data, words) => (data.x ? "" : words),
    positions: (data) => ({ x: data.x, y: data.y }),
    note: () => "near is alike; the axes and far distances mean nothing",
  },
  rate: {
    missing: () => "",
    positions: (data) => ({ x: data.density.map(Math.log10), y: data.max.map(Math.log10) }),
    ticks: { x: roundPercent, y: short, xTitle: "density (log)", yTitle: "maximum (log)" },
    note: (data) => {
      const dead = data.density.filter((value) => value === 0).length;
      return dead ? `without ${plural(dead, "dead feature")}` : "";
    },
  },
};

// Numbers of the points that have a position: the logarithm of zero has none.
export const placed = ({ x, y }) => {
  const numbers = [];
  for (let i = 0; i < x.length; i += 1) if (Number.isFinite(x[i]) && Number.isFinite(y[i])) numbers.push(i);
  return numbers;
};

// --- colours ---------------------------------------------------------------------------------------------------------

// Shades are steps of the logarithm between two percentiles: a few outliers would leave all others one colour.
// The weakest shade is `from` per cent of the accent.
const shades = (values, format, from = 0) => {
  const logs = values.filter((value) => value > 0).map(Math.log10).sort((a, b) => a - b);
  const low = logs[Math.floor(0.02 * logs.length)];
  const high = logs[Math.ceil(0.98 * logs.length) - 1];
  const step = (value) => Math.floor(((Math.log10(value) - low) / (high - low || 1)) * SHADES);
  const colours = Array.from({ length: SHADES }, (_, i) => `color-mix(in oklab, var(--accent) ${Math.round(from + ((100 - from) * i) / (SHADES - 1))}%, var(--map-low))`);
  return {
    group: values.map((value) => (value > 0 ? Math.max(0, Math.min(SHADES - 1, step(value))) : 0)),
    colours,
    legend: logs.length ? { ramp: colours, from: `≤ ${format(10 ** low)}`, to: `≥ ${format(10 ** high)}` } : null,
  };
};

// Each gives the group of every point, the colour of every group, and a legend.
export const COLOURINGS = {
  density: (data) => shades(data.density, percent),
  max: (data) => shades(data.max, significant),
  effect: (data) => {
    const missing = data.effect.filter((ratio) => ratio === null).length;
    const { group, colours, legend } = shades(data.effect.map((ratio) => ratio ?? 0), (ratio) => `${significant(ratio)} × chance`, 25);
    return {
      group: group.map((shade, i) => (data.effect[i] === null ? 0 : shade + 1)),
      colours: ["var(--map-low)", ...colours],
      legend: { ...legend, keys: missing ? [["var(--map-low)", `not measured (${count(missing)})`]] : [] },
    };
  },
  labels: (data) => {
    const labelled = new Set(data.labelled);
    return {
      group: data.index.map((index) => (labelled.has(index) ? 1 : 0)),
      colours: ["var(--map-low)", "var(--accent)"],
      legend: { keys: [["var(--accent)", `labelled (${count(data.labelled.length)})`], ["var(--map-low)", "not yet"]] },
    };
  },
  topic: (data) => {
    const sizes = new Map();
    for (const topic of data.topic) if (topic >= 0) sizes.set(topic, (sizes.get(topic) ?? 0) + 1);
    const largest = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, MAX_TOPICS).map(([topic]) => topic);
    const hues = ["var(--accent)", ...[2, 3, 4, 5, 6].map((i) => `var(--series-${i})`)];
    return {
      group: data.topic.map((topic) => largest.indexOf(topic) + 1),
      colours: ["var(--map-low)", ...hues],
      legend: { keys: [...largest.map((topic, i) => [hues[i], data.topics[topic]]), ["var(--map-low)", "another, or none"]] },
    };
  },
};
