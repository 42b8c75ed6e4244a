// Histograms of weights and signals.

const range = (low, high) => (high === null ? `${figure(low)} and more` : `${figure(low)} to ${figure(high)}`);

function weights(stage) {
  if (!stage.histograms.length) return null;
  // Weights come first, if the objective has them.
  const quantities = d3.sort(new Set(stage.histograms.map((one) => one.quantity)), (one) => one !== "weight");
  const title = (over) => `${quantity.value === "weight" ? "Weight" : "Signal"} over ${over}`;
  const quantity = element("select", { "aria-label": "What is counted" }, ...quantities.map((one) => element("option", { value: one }, one)));
  const domain = element("select", { "aria-label": "Domain" }, element("option", { value: "" }, "all domains"), ...stage.domains.map((one) => element("option", { value: one }, visible(one))));
  const box = element("div", { class: "pair" });
  const figures = ["position", "entropy"].map((over) => {
    const body = element("div");
    const controls = over === "position" ? [quantity, stage.domains.length > 1 ? domain : null] : [];
    const made = element("figure", { "data-chart": `weights-${over}` }, caption(title(over), stage, ...controls), body);
    box.append(made);
    return [over, made, body];
  });
  const draw = () => {
    for (const [over, made, body] of figures) {
      body.replaceChildren();
      made.querySelector("figcaption > span").textContent = title(over);
      const counts = new Map();
      for (const one of stage.histograms) {
        if (one.over !== over || one.quantity !== quantity.value || (domain.value && one.domain !== domain.value)) continue;
        for (const [place, size, tokens] of one.bins) {
          const key = `${place} ${size}`;
          counts.set(key, { place, size, tokens: (counts.get(key)?.tokens ?? 0) + tokens });
        }
      }
      const cells = [...counts.values()];
      made.dataset.points = cells.length;
      const perPlace = d3.rollup(cells, (group) => d3.sum(group, (cell) => cell.tokens), (cell) => cell.place);
      const places = data.edges_of_bins[over].filter(([low]) => perPlace.has(low));
      const sizes = data.edges_of_bins.size.filter(([low]) => cells.some((cell) => cell.size >= low) && cells.some((cell) => cell.size <= low));
      const what = quantity.value === "weight" ? "objective’s weight" : "absolute signal, before reduce";
      body.append(element("p", { class: "legend" }, over === "position"
        ? `Per column: the distribution of the tokens at a position over the ${what}.`
        : `The same over the student’s entropy at the token, in nats.`));
      const svg = Plot.plot({
        width: widthOf(body, 480), height: 250, marginLeft: 60, marginRight: 6, marginTop: 28, marginBottom: 36, style: chartStyle,
        x: { type: "band", domain: places.map(([low]) => low), label: over === "position" ? "position from" : "entropy from", labelAnchor: "right", labelArrow: "none", tickFormat: (low) => edge(low), ticks: places.map(([low]) => low).filter((_, index) => index % Math.ceil(places.length / 9) === 0), tickSize: 0, padding: 0.04 },
        y: { type: "band", domain: sizes.map(([low]) => low).reverse(), label: `${quantity.value} from`, labelAnchor: "top", labelArrow: "none", tickFormat: edge, ticks: sizes.map(([low]) => low).filter((_, index) => sizes.length < 10 || index % 2 === 0), tickSize: 0, padding: 0.04 },
        marks: [
          Plot.cell(cells, { x: "place", y: "size", fill: "var(--heat)", fillOpacity: (cell) => 0.06 + 0.94 * Math.sqrt(cell.tokens / perPlace.get(cell.place)), rx: 1.5, title: (cell) => {
            const [, placeHigh] = data.edges_of_bins[over].find(([low]) => low === cell.place);
            const [, sizeHigh] = data.edges_of_bins.size.find(([low]) => low === cell.size);
            return `${over} ${range(cell.place, placeHigh)}\n${quantity.value} ${range(cell.size, sizeHigh)}\n${cell.tokens} tokens, ${Math.round((100 * cell.tokens) / perPlace.get(cell.place))}% of the column`;
          } }),
        ],
      });
      const most = d3.greatest(cells, (cell) => cell.tokens);
      finish(body, svg, `${quantity.value} over ${over}, ${stage.name}`, `${d3.sum(cells, (cell) => cell.tokens)} tokens; most of them with ${over} from ${figure(most?.place)} and ${quantity.value} from ${figure(most?.size)}`, {
        columns: [over, quantity.value, "tokens", "of the column"],
        rows: d3.sort(cells, (cell) => cell.place, (cell) => cell.size).map((cell) => [
          range(...data.edges_of_bins[over].find(([low]) => low === cell.place)), range(...data.edges_of_bins.size.find(([low]) => low === cell.size)), String(cell.tokens), `${((100 * cell.tokens) / perPlace.get(cell.place)).toFixed(1)}%`]),
      });
    }
  };
  quantity.addEventListener("change", draw);
  domain.addEventListener("change", draw);
  return [box, draw];
}
