// Searches and sorts the list of a static site. data.js holds the list, because a page opened from a disk cannot fetch
// files. Browsers do not load modules from a disk either, so this script is a classic one and has its own helpers.
(() => {
  "use strict";
  const rows = window.SEESAE?.rows;
  const form = document.getElementById("filters");
  const list = document.getElementById("rows");
  if (!rows || !form || !list) return;
  const [NUMBER, TEXT, LABEL, TOKENS, EXAMPLE, SPARK, DENSITY, MAX, , FLAGS] = rows.length ? rows[0].keys() : [];
  const STEP = 50;
  const note = document.getElementById("list-note");
  const pages = document.getElementById("pages");
  const written = { rows: [...list.children], note: note.textContent };
  const query = document.getElementById("q");
  const sort = document.getElementById("sort");
  const flag = document.getElementById("flag");
  const defaultSort = sort.value;

  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    made.className = className;
    made.append(...children);
    return made;
  };
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const significant = (value) => (value ? value.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }) : "0");
  const percent = (share) => `${share ? (100 * share).toLocaleString("en", share >= 0.1 ? { maximumFractionDigits: 1 } : { maximumSignificantDigits: 2 }) : "0"}\u202f%`;

  const nameOf = (row) => {
    if (row[LABEL]) return element("span", "feature-label", row[LABEL]);
    if (!row[TOKENS].length) return element("span", "faint", "no label");
    return element("span", "tokens", ...row[TOKENS].map((token) => element("bdi", "token", token.trim() ? token : "␣".repeat(token.length))));
  };
  const exampleOf = (row) => {
    if (!row[EXAMPLE]) return element("span", "faint small", "no example");
    const [before, token, after] = row[EXAMPLE];
    return element(
      "span",
      "line",
      element("span", "line-before", element("span", "", before)),
      element("span", "line-after", element("bdi", "", element("span", "t a6 top", token)), after),
    );
  };
  const rowOf = (row) => {
    const link = element(
      "a",
      "feature-row",
      element("span", "feature-number number", String(row[NUMBER])),
      element("span", "feature-name", nameOf(row), ...row[FLAGS].map((flag) => element("span", "tag warn", flag.replaceAll("_", " ")))),
      element("span", "feature-example", exampleOf(row)),
      element("span", "feature-spark", svg("svg", { class: "spark", viewBox: "0 0 80 20", "aria-hidden": "true" }, svg("path", { d: row[SPARK] }))),
      element("span", "feature-density number", percent(row[DENSITY])),
      element("span", "feature-max number", element("span", "unit", "max "), significant(row[MAX])),
    );
    link.href = `features/${row[NUMBER]}.html`;
    return element("li", "", link);
  };

  const more = element("button", "button", "More");
  more.type = "button";
  let found = [];
  let shown = 0;
  const extend = () => {
    const from = list.children.length;
    shown += STEP;
    list.append(...found.slice(shown - STEP, shown).map(rowOf));
    more.hidden = shown >= found.length;
    return from;
  };
  more.addEventListener("click", () => list.children[extend()]?.querySelector("a").focus());
  more.hidden = true;
  const place = element("p", "more", more);
  list.after(place);

  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wantedFlag = flag?.value ?? "";
    const untouched = !words.length && !wantedFlag && sort.value === defaultSort;
    if (pages) pages.hidden = !untouched;
    if (untouched) {
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
    note.textContent = found.length ? `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "Nothing matches: try a shorter or more common word.";
  };

  note.setAttribute("role", "status");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  addEventListener("pageshow", apply); // going back restores the typed text
})();
