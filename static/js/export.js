// Searches and sorts the list of a static site. data.js holds the list, because a page opened from a disk cannot fetch
// files. Browsers do not load modules from a disk either: an export writes this one with its imports as one script.
import { element } from "./lib/element.js";
import { count, percent, significant } from "./lib/format.js";

const PAGE = 50;

const span = (className, ...children) => element("span", { class: className }, ...children);

const sparkline = (path) => {
  const make = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const svg = make("svg", { class: "spark", viewBox: "0 0 80 20", "aria-hidden": "true" });
  svg.append(make("path", { d: path }));
  return svg;
};

const start = (rows, form, list) => {
  const [NUMBER, TEXT, LABEL, TOKENS, EXAMPLE, SPARK, DENSITY, MAX, , FLAGS, , EFFECT, MEANING] = rows.length ? rows[0].keys() : [];
  const note = document.getElementById("list-note");
  const pages = document.getElementById("pages");
  const written = { rows: [...list.children], note: note.textContent };
  const query = document.getElementById("q");
  const sort = document.getElementById("sort");
  const flag = document.getElementById("flag");
  const defaultSort = sort.value;

  const nameOf = (row) => {
    if (row[LABEL]) return span("feature-label", row[LABEL]);
    if (!row[TOKENS].length) return span("faint", "no label");
    return span("tokens", ...row[TOKENS].map((token) => element("bdi", { class: "token" }, token.trim() ? token : "␣".repeat(token.length))));
  };
  const effectOf = (row) => (row[EFFECT] ? [element("span", { class: "tag", title: row[MEANING] }, `effect ${row[EFFECT]}`)] : []);
  const exampleOf = (row) => {
    if (!row[EXAMPLE]) return span("faint small", "no example");
    const [before, token, after] = row[EXAMPLE];
    return span("line", span("line-before", element("span", {}, before)), span("line-after", element("bdi", {}, span("t a6 top", token)), after));
  };
  const rowOf = (row) => {
    const link = element(
      "a",
      { class: "feature-row", href: `features/${row[NUMBER]}.html` },
      span("feature-number number", String(row[NUMBER])),
      span("feature-name", nameOf(row), ...row[FLAGS].map((name) => span("tag warn", name.replaceAll("_", " "))), ...effectOf(row)),
      span("feature-example", exampleOf(row)),
      span("feature-spark", sparkline(row[SPARK])),
      span("feature-density number", percent(row[DENSITY])),
      span("feature-max number", span("unit", "max "), significant(row[MAX])),
    );
    return element("li", {}, link);
  };

  const more = element("button", { class: "button", type: "button" }, "More");
  let found = [];
  let shown = 0;
  const extend = () => {
    const from = list.children.length;
    shown += PAGE;
    list.append(...found.slice(shown - PAGE, shown).map(rowOf));
    more.hidden = shown >= found.length;
    return from;
  };
  more.addEventListener("click", () => list.children[extend()]?.querySelector("a").focus());
  more.hidden = true;
  list.after(element("p", { class: "more" }, more));

  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wantedFlag = flag?.value ?? "";
    const isUntouched = !words.length && !wantedFlag && sort.value === defaultSort;
    if (pages) pages.hidden = !isUntouched;
    if (isUntouched) {
      list.replaceChildren(...written.rows);
      note.textContent = written.note;
      more.hidden = true;
      return;
    }
    const [column, direction] = sort.value.split(" ").map(Number);
    found = rows
      .filter((row) => words.every((word) => row[TEXT].includes(word)) && (!wantedFlag || row[FLAGS].includes(wantedFlag)))
      .sort((one, other) => direction * (one[column] - other[column]) || direction * (one[NUMBER] - other[NUMBER]));
    list.replaceChildren();
    shown = 0;
    extend();
    note.textContent = found.length ? `${count(found.length)} of ${count(rows.length)}` : "Nothing matches: try a shorter or more common word.";
  };

  note.setAttribute("role", "status");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  addEventListener("pageshow", apply); // going back restores the typed text
};

const [form, list] = ["filters", "rows"].map((id) => document.getElementById(id));
if (window.SEESAE?.rows && form && list) start(window.SEESAE.rows, form, list);
