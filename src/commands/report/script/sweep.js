// The page of a sweep: scores against the swept values. A page that is served also polls for new data.

/** By table: the row and the column that are shown. They stay when the page gets new data. */
const shown = new Map();

function sweptChart(box) {
  const place = Number(box.dataset.table);
  const table = data.tables[place];
  const params = data.params.filter((name) => new Set(data.runs.map((run) => run.values[name])).size > 1);
  const columns = [...table.domains, ...(table.domains.length > 1 ? ["mean over domains"] : []), ...(table.normalized ? ["normalized"] : [])];
  const first = params.length > 1 && table.distilled !== null ? String(table.distilled) : "";
  const state = shown.get(place) ?? { row: first, column: columns.length - 1 };
  shown.set(place, state);
  const number = (run, row) => {
    const cells = table.cells[run]?.[row];
    if (!cells) return null;
    if (state.column < table.domains.length) return cells[state.column];
    if (columns[state.column] === "normalized") return cells[table.domains.length];
    const means = cells.slice(0, table.domains.length);
    // The interval of a mean over domains is not that of its parts.
    return means.every(Boolean) ? [d3.mean(means, ([mean]) => mean), null, null] : null;
  };
  const select = (label, options, value, chosen) => {
    const made = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
    made.value = String(value);
    made.addEventListener("change", () => {
      chosen(made.value);
      draw();
    });
    return element("label", {}, `${label} `, made);
  };
  const body = element("div");
  box.append(element("div", { class: "controls" },
    select("Row", [["", "each"], ...table.rows.map((name, row) => [row, name])], state.row, (value) => { state.row = value; }),
    select("Score", columns.map((name, column) => [column, name]), state.column, (value) => { state.column = Number(value); })), body);

  const panel = (param, rows) => {
    const others = params.filter((name) => name !== param);
    const points = data.runs.flatMap((run, index) => rows.flatMap((row) => {
      const score = number(index, row);
      if (!score || score[0] === null) return [];
      const labels = [...(state.row === "" ? [table.rows[row]] : []), ...others.map((name) => `${name}=${run.values[name]}`)];
      return [{ x: run.values[param], line: labels.join(", ") || table.rows[row], mean: score[0], low: score[1], high: score[2] }];
    }));
    if (!points.length) return [];
    const names = [...new Set(points.map((point) => point.line))];
    const made = element("div");
    const legend = keys(names.slice(0, mostLines));
    if (legend) made.append(legend);
    if (names.length > mostLines) made.append(element("p", { class: "legend" }, `${mostLines} of ${names.length} lines are drawn: choose a row.`));
    const drawn = points.filter((point) => names.indexOf(point.line) < mostLines).map((point) => ({ ...point, index: names.indexOf(point.line) }));
    body.append(made);
    const width = widthOf(body, 700);
    const values = d3.sort(new Set(drawn.map((point) => point.x)));
    const named = drawn.some((point) => typeof point.x === "string");
    const log = !named && values[0] > 0 && values.at(-1) / values[0] >= 20;
    const ranged = drawn.filter((point) => point.low !== null);
    const svg = Plot.plot({
      width, height: 260, marginLeft: 48, marginRight: 20, marginTop: 28, marginBottom: 36, style: chartStyle,
      x: named ? { label: param, labelAnchor: "right", labelArrow: "none", type: "point" } : { label: param, labelAnchor: "right", labelArrow: "none", type: log ? "log" : "linear", ticks: values.length <= width / 70 ? values : Math.floor(width / 90), tickFormat: (value) => minus(String(Number(value.toPrecision(4)))), inset: 8 },
      y: { label: columns[state.column], labelArrow: "none", grid: true, ticks: 5, nice: true },
      marks: [
        Plot.ruleX(ranged, { x: "x", y1: "low", y2: "high", stroke: (d) => colour(d.index), strokeWidth: 1.6, strokeOpacity: 0.45 }),
        ...d3.groups(drawn, (point) => point.index).map(([index, own]) => Plot.line(d3.sort(own, (point) => point.x), { x: "x", y: "mean", stroke: colour(index), strokeDasharray: dash(index), strokeWidth: 1.6 })),
        Plot.dot(drawn, { x: "x", y: "mean", fill: (d) => colour(d.index), r: 3.2, title: (d) => `${d.line}, ${param}=${d.x}: ${figure(d.mean)}${d.low === null ? "" : ` (${figure(d.low)} to ${figure(d.high)})`}` }),
      ],
    });
    const best = d3.greatest(drawn, (point) => point.mean);
    finish(made, svg, `${table.name}, ${columns[state.column]} against ${param}`, `Highest: ${best.line} with ${figure(best.mean)} at ${best.x}`, {
      columns: ["line", param, columns[state.column], "low", "high"],
      rows: drawn.map((point) => [point.line, String(point.x), point.mean, point.low, point.high]),
    });
    return drawn;
  };
  const draw = () => {
    body.replaceChildren();
    const rows = state.row === "" ? table.rows.map((_, row) => row) : [Number(state.row)];
    box.dataset.points = d3.sum(params, (param) => panel(param, rows).length);
  };
  return draw;
}

const mostLines = colours.length * dashes.length;
let charts = [];
function drawSweep() {
  charts = [...document.querySelectorAll("figure[data-chart=swept]")].map(sweptChart);
  for (const draw of charts) draw();
}
drawSweep();
let waiting = null;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => charts.forEach((draw) => draw()), 150);
});
for (const [event, state] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    printing = state;
    charts.forEach((draw) => draw());
  });
}

const pause = 2000;
async function ask() {
  let next = pause;
  try {
    const answer = await fetch(`state?since=${encodeURIComponent(document.body.dataset.live)}`, { cache: "no-store" });
    // Nothing is replaced below the reader: an open list, a table of numbers.
    if (answer.status === 200 && !document.querySelector("#sweep select:focus, #sweep details[open]")) {
      const news = await answer.json();
      document.body.dataset.live = news.version;
      Object.assign(data, news.data);
      document.getElementById("sweep").innerHTML = news.body;
      drawSweep();
    }
    document.body.dataset.answers = String(Number(document.body.dataset.answers ?? 0) + 1);
  } catch {
    document.querySelector("#sweep [role=status]").textContent = "mopd report --live does not answer any more; this is what it said last.";
    next = 5 * pause;
  }
  setTimeout(ask, next);
}
if (document.body.dataset.live !== undefined) ask();
document.documentElement.dataset.drawn = "yes";
