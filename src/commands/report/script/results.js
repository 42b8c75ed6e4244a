// The tables of results.

/** `+0.04`; a number that rounds to 0 has no minus. */
function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

/** Shows below each number its difference from the chosen row. The differences are in the page's data. */
function references(box) {
  const place = Number(box.dataset.reference);
  const { name, rows, references: known, paired, unclear } = data.tables[place];
  if (!known.length) {
    box.remove();
    return;
  }
  const options = known.map((reference, index) => element("option", { value: index }, rows[reference.row].model));
  const choice = element("select", {}, element("option", { value: "" }, "none"), ...options);
  const legend = element("span", { class: "legend", "aria-live": "polite" });
  box.append(element("label", {}, `Differences to `, choice), legend);
  const lines = [...document.querySelectorAll(`#table-${place} tbody tr`)];
  choice.addEventListener("change", () => {
    for (const old of document.querySelectorAll(`#table-${place} .difference`)) old.remove();
    const chosen = choice.value === "" ? null : known[Number(choice.value)];
    legend.textContent = chosen
      ? `Below each number: its difference to ${rows[chosen.row].model}, with a 95% interval ${paired}; * marks an interval that excludes 0.`
      : "";
    chosen?.rows.forEach((cells, row) => cells.forEach((cell, column) => {
      if (!cell || row === chosen.row) return;
      const [mean, low, high, digits] = cell;
      const clear = !unclear.includes(column) && (low > 0 || high < 0);
      const text = `${signed(mean, digits)} [${signed(low, digits)}, ${signed(high, digits)}]${clear ? " *" : ""}`;
      lines[row].querySelectorAll("td")[column].append(element("small", { class: clear ? "difference clear" : "difference" }, text));
    }));
  });
  choice.setAttribute("aria-label", `Differences of ${name} to a row`);
}

function scores(box) {
  const table = data.tables[Number(box.dataset.table)];
  const columns = [...table.domains, ...(table.normalized ? ["normalized"] : [])];
  const rows = table.rows.flatMap((row) => columns.map((column, index) => ({ model: row.model, column, mean: row.cells[index]?.[0], low: row.cells[index]?.[1], high: row.cells[index]?.[2] })).filter((row) => row.mean !== undefined && row.mean !== null));
  box.dataset.points = rows.length;
  const body = element("div", { class: "panels" });
  box.append(body);
  const draw = () => {
    const longest = marginOf(table.rows.map((row) => row.model));
    const width = widthOf(body, 1010);
    const across = Math.max(1, Math.min(columns.length, Math.floor((width - longest) / 150)));
    const panel = (width - longest) / across;
    const boxes = columns.map((column, index) => {
      // Each panel has an axis of its own: a normalized score may be far outside of the range of rewards.
      const first = index % across === 0;
      const own = rows.filter((row) => row.column === column);
      const svg = Plot.plot({
        width: panel + (first ? longest : 0), height: 26 + 21 * table.rows.length + 30, marginLeft: first ? longest : 12, marginRight: 12, marginTop: 26, marginBottom: 30, style: chartStyle,
        x: { label: null, ticks: 3, grid: true, nice: true }, y: { domain: table.rows.map((row) => row.model), axis: first ? "left" : null, tickFormat: shortened, label: null, tickSize: 0 },
        marks: [
          Plot.text([column], { text: visible, frameAnchor: "top-left", dy: -18, fontWeight: 600 }),
          Plot.ruleY(own, { y: "model", x1: "low", x2: "high", stroke: "var(--heat)", strokeWidth: 2.4, strokeOpacity: 0.5, strokeLinecap: "round" }),
          Plot.dot(own, { y: "model", x: "mean", fill: "var(--heat)", r: 3.6, title: (d) => `${d.model}, ${d.column}: ${figure(d.mean)} (${figure(d.low)} to ${figure(d.high)})` }),
        ],
      });
      const box = element("div");
      const best = d3.greatest(own, (row) => row.mean);
      finish(box, svg, `${table.name}, ${visible(column)}: means with 95% intervals`, best ? `Highest: ${best.model} with ${figure(best.mean)}. The table above has every number` : "");
      return box;
    });
    body.replaceChildren(...boxes);
  };
  return draw;
}
