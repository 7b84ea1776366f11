// The form of the steering page: rows of features, strengths from a feature's own range, and tokens to change.
// Without this script the same buttons ask the server.

const form = document.getElementById("steer-form");
const result = document.getElementById("result");
const rows = form.querySelector("[data-rows]");
const short = (value) => String(Number(value.toPrecision(4)));

// --- rows ------------------------------------------------------------------------------------------------------------

const every = () => [...rows.children];
const field = (row, name) => row.querySelector(`[name="${name}"]`);

const addRow = () => {
  rows.append(document.getElementById("steer-row").content.cloneNode(true));
  field(rows.lastElementChild, "feature").focus();
};

const removeRow = (row) => {
  const before = row.previousElementSibling; // the first row cannot be removed
  row.remove();
  field(before, "feature").focus();
};

form.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-row], [data-remove-row]");
  if (!button) return;
  event.preventDefault();
  if ("addRow" in button.dataset) addRow();
  else removeRow(button.closest("[data-row-of-form]"));
});

// --- strengths -------------------------------------------------------------------------------------------------------

const maximumOf = (row) => Number(row.querySelector("[data-marks]")?.dataset.maximum ?? 0);

const moveSlider = (row) => {
  const slider = row.querySelector("[data-slider]");
  const maximum = maximumOf(row);
  slider.hidden = !maximum;
  if (maximum) slider.value = Number(field(row, "value").value) / maximum;
};

const loadMarks = async (row) => {
  const named = new URLSearchParams({ feature: field(row, "feature").value, of: field(row, "sae")?.value ?? "" });
  const answer = await fetch(`${rows.dataset.marksAt}?${named}`, { headers: { "HX-Request": "true" } });
  const place = row.querySelector("[data-marks-of-row]");
  place.innerHTML = answer.ok ? await answer.text() : "";
  const marks = place.querySelector("[data-marks]");
  if (marks) field(row, "value").value = marks.dataset.default;
  moveSlider(row);
};

rows.addEventListener("change", (event) => {
  if (event.target.matches('[name="feature"], [name="sae"]')) loadMarks(event.target.closest("[data-row-of-form]"));
});
rows.addEventListener("input", (event) => {
  const row = event.target.closest("[data-row-of-form]");
  if (event.target.matches("[data-slider]")) field(row, "value").value = short(event.target.value * maximumOf(row));
  if (event.target.matches('[name="value"]')) moveSlider(row);
});
rows.addEventListener("click", (event) => {
  const mark = event.target.closest("[data-strength]");
  if (!mark) return;
  event.preventDefault(); // without this script it is a link
  const row = mark.closest("[data-row-of-form]");
  field(row, "value").value = mark.dataset.strength;
  field(row, "value").focus();
  moveSlider(row);
});
for (const row of every()) moveSlider(row);

// --- tokens ----------------------------------------------------------------------------------------------------------

let anchor = null; // the token that a range begins with

const spelled = (positions) => {
  const parts = [];
  for (const position of positions) {
    const last = parts.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else parts.push([position, position]);
  }
  return parts.map(([first, end]) => (first === end ? String(first) : `${first}-${end}`)).join(", ");
};

const choose = (token, extend) => {
  const tokens = [...token.closest("[data-choose]").querySelectorAll("[aria-pressed]")];
  const pressed = token.getAttribute("aria-pressed") !== "true";
  const [from, to] = [tokens.indexOf(extend && tokens.includes(anchor) ? anchor : token), tokens.indexOf(token)].sort((a, b) => a - b);
  for (const one of tokens.slice(from, to + 1)) one.setAttribute("aria-pressed", String(pressed));
  anchor = token;
  const chosen = tokens.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => Number(one.value));
  form.elements.at.value = spelled(chosen);
  form.elements.positions.value = chosen.length ? "tokens" : "all";
};

result.addEventListener("click", (event) => {
  const token = event.target.closest("[data-choose] [aria-pressed]");
  if (!token) return;
  event.preventDefault();
  choose(token, event.shiftKey);
});
form.elements.at.addEventListener("input", () => {
  if (form.elements.at.value.trim()) form.elements.positions.value = "tokens";
});
