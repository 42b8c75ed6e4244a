// Shared by all charts: numbers and texts for people, elements, captions, tables of a chart's numbers.

const data = JSON.parse(document.getElementById("data").textContent);
let trained = data.stages.filter((stage) => stage.at.length);
const colours = [0, 1, 2, 3, 4, 5, 6].map((index) => `var(--c${index})`);
const dashes = [null, "7 3", "2 3", "9 3 2 3"];
const colour = (index) => colours[index % colours.length];
const dash = (index) => dashes[Math.floor(index / colours.length) % dashes.length];

const minus = (text) => text.replaceAll("-", "−");

/** The lower edge of a bin, as short as possible. */
function edge(value) {
  // A negative power of 2 as a fraction, which four digits do not write exactly.
  const parts = Math.round(1 / value);
  if (value > 0 && value < 1 && Number.isInteger(Math.log2(parts)) && Math.abs(value * parts - 1) < 1e-3) return `1/${parts}`;
  return minus(String(value));
}

/** A number for people: three digits, with a real minus sign. */
function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : size >= 1000 ? value.toFixed(0) : value.toPrecision(3);
  return minus(text);
}

/** Text of a model or a file, with control characters spelled out. */
function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff]/g, (c) => {
    if (c === "\n") return "↵\n";
    if (c === "\t") return "→\t";
    return `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (key === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A name as it is written beside a chart. */
function shortened(name) {
  const text = visible(name);
  return text.length > 28 ? `${text.slice(0, 27)}…` : text;
}

/** The left margin that fits these names. */
function marginOf(names) {
  return 14 + 6.6 * Math.max(...names.map((name) => shortened(name).length));
}

const chartStyle = { background: "none", color: "var(--ink)", fontFamily: "inherit", fontSize: "12px", overflow: "visible" };

/** Completes a chart: its title and description for screen readers, and a table of its numbers. */
function finish(box, svg, name, description, table) {
  svg.setAttribute("role", "img");
  // Plot's own labels inside an image are not read out.
  for (const part of svg.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label");
  svg.setAttribute("aria-label", `${name}. ${description}`);
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = name;
  svg.prepend(title);
  const plot = element("div", { class: "plot" }, svg);
  box.append(plot);
  if (table) box.append(behind(name, table));
  return plot;
}

/** Makes many elements a single stop of the Tab key; arrow keys move among them. `down` is the number in a row. */
function roving(box, selector, down = 0) {
  const all = () => [...box.querySelectorAll(selector)];
  const stop = (chosen) => all().forEach((one) => one.setAttribute("tabindex", one === chosen ? "0" : "-1"));
  stop(all().find((one) => one.getAttribute("tabindex") === "0") ?? all()[0]);
  // A box that grew has its listeners already.
  if (box.dataset.roving) return;
  box.dataset.roving = "yes";
  box.addEventListener("focusin", (event) => {
    const chosen = event.target.closest(selector);
    if (chosen) stop(chosen);
  });
  box.addEventListener("keydown", (event) => {
    const known = all();
    const from = known.indexOf(document.activeElement);
    if (from < 0) return;
    const last = known.length - 1;
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, ArrowDown: from + (down || 1), ArrowUp: from - (down || 1), Home: 0, End: last }[event.key];
    if (to === undefined || !known[to]) return;
    event.preventDefault();
    known[to].focus();
  });
}

/** A table of a chart's numbers, which is made when it is opened: most never are. */
function behind(name, { columns, rows }) {
  const wide = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `${name}, the numbers` });
  const details = element("details", {}, element("summary", {}, "Numbers"), wide);
  details.addEventListener("toggle", () => {
    if (!details.open || wide.firstChild) return;
    const head = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)));
    const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, typeof cell === "number" || cell === null ? figure(cell) : cell))));
    wide.append(element("table", { class: "data" }, element("thead", {}, head), element("tbody", {}, ...body)));
  });
  return details;
}

function keys(names) {
  if (names.length < 2) return null;
  const key = (name, index) => {
    const line = element("i");
    line.style.borderTopColor = colour(index);
    if (dash(index)) line.style.borderTopStyle = "dashed";
    return element("span", {}, line, visible(name));
  };
  return element("div", { class: "keys", "aria-hidden": "true" }, ...names.map(key));
}

/** A link to the origin of a chart's numbers. */
function origin(stage) {
  return element("span", { class: "aside" }, element("a", { href: `#${stage.anchor}`, "aria-label": `Provenance: the source, key and versions of ${visible(stage.name)}` }, "provenance"));
}

function caption(text, stage, ...more) {
  return element("figcaption", {}, element("span", {}, text), ...more, stage ? origin(stage) : null);
}

/** The width of a printed page, A4 or letter, in the units of charts; a chart of a pair has half of it. */
const paper = 700;
let printing = false;

function widthOf(box, most) {
  if (printing) return box.closest(".pair") ? (paper - 30) / 2 : paper;
  return Math.max(280, Math.min(most, box.clientWidth || most));
}
