// The stage graph and the cost.

function graph(box) {
  const known = data.stages.filter((stage) => stage.run === Number(box.dataset.run));
  box.dataset.points = known.length;
  const g = new dagre.graphlib.Graph();
  // Columns are depths: the longest path from a stage without inputs. The layout ranks from the ends of edges, so edges are reversed for it.
  g.setGraph({ rankdir: "RL", ranker: "longest-path", nodesep: 12, ranksep: 46, marginx: 6, marginy: 6 });
  g.setDefaultEdgeLabel(() => ({}));
  for (const stage of known) g.setNode(String(stage.id), { width: 20 + 6.9 * Math.max(shortened(stage.name).length, stage.kind.length * 0.9), height: 38 });
  const own = data.edges.filter((edge) => known.some((stage) => stage.id === edge.to));
  for (const edge of own) g.setEdge(String(edge.to), String(edge.from), { carries: edge.carries });
  dagre.layout(g);
  const { width } = g.graph();
  // Edges may extend beyond the boxes.
  const ends = [...g.nodes().map((id) => g.node(id).y + 19), ...g.edges().flatMap((edge) => g.edge(edge).points.map((point) => point.y))];
  const top = Math.min(0, d3.min(ends) - 24);
  const height = d3.max(ends) + 8 - top;
  const svg = d3.create("svg").attr("viewBox", [0, top, width, height]).attr("width", width).attr("height", height).attr("role", "group");
  svg.append("defs").append("marker").attr("id", `arrow-${box.dataset.run}`).attr("viewBox", "0 0 8 8").attr("refX", 7).attr("refY", 4).attr("markerWidth", 6).attr("markerHeight", 6).attr("orient", "auto")
    .append("path").attr("d", "M0,0.8 L7,4 L0,7.2").attr("fill", "none").attr("stroke", "var(--soft)");
  const line = d3.line((point) => point.x, (point) => point.y).curve(d3.curveBasis);
  for (const edge of g.edges()) {
    const { points, carries } = g.edge(edge);
    svg.append("path").attr("class", carries ? "edge" : "edge teaches").attr("d", line([...points].reverse())).attr("marker-end", `url(#arrow-${box.dataset.run})`);
  }
  for (const stage of known) {
    const { x, y, width: w, height: h } = g.node(String(stage.id));
    const made = own.filter((edge) => edge.to === stage.id).map((edge) => known.find((one) => one.id === edge.from).name);
    const link = svg.append("a").attr("class", "node").attr("href", `#${stage.anchor}`).attr("aria-label", `${stage.name} ${stage.kind}${made.length ? `, from ${made.join(", ")}` : ""}`);
    link.append("rect").attr("x", x - w / 2).attr("y", y - h / 2).attr("width", w).attr("height", h).attr("rx", 7).style("stroke", `var(--c${{ sft: 0, grpo: 2, distill: 1, merge: 4, dpo: 5 }[stage.kind] ?? 6})`);
    link.append("text").attr("x", x).attr("y", y - 2).attr("text-anchor", "middle").text(shortened(stage.name));
    // A separator, so that the text of a box begins as its label does.
    link.append(() => document.createTextNode(" "));
    link.append("text").attr("class", "kind").attr("x", x).attr("y", y + 12).attr("text-anchor", "middle").text(stage.kind);
  }
  roving(svg.node(), "a.node");
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = `The plan: ${known.length} stages`;
  svg.node().prepend(title);
  box.append(element("div", { class: "graph-box", tabindex: "0", role: "region", "aria-label": "The plan as a graph" }, svg.node()));
}

function cost(box) {
  const rows = data.stages.filter((stage) => stage.run === Number(box.dataset.run)).filter((stage) => stage.seconds !== null || stage.predicted !== null);
  if (!rows.length) {
    box.remove();
    return null;
  }
  box.dataset.points = rows.length;
  const body = element("div");
  box.append(caption("Time per stage, predicted and measured"), body);
  return () => {
    body.replaceChildren();
    const longest = marginOf(rows.map((row) => row.name));
    const svg = Plot.plot({
      width: widthOf(body, 760), height: 44 + 20 * rows.length, marginLeft: longest, marginRight: 20, marginTop: 8, marginBottom: 34, style: chartStyle,
      x: { label: "seconds, all seeds", labelAnchor: "right", labelArrow: "none", grid: true, ticks: 6 }, y: { domain: rows.map((row) => row.name), tickFormat: shortened, label: null, tickSize: 0, padding: 0.3 },
      marks: [
        Plot.barX(rows.filter((row) => row.seconds !== null), { x: "seconds", y: "name", fill: "var(--heat)", fillOpacity: 0.75, rx2: 2, title: (row) => `${row.name}: ${figure(row.seconds)} s measured${row.predicted === null ? "" : `, ${figure(row.predicted)} s predicted`}` }),
        Plot.tickX(rows.filter((row) => row.predicted !== null), { x: "predicted", y: "name", stroke: "var(--c1)", strokeWidth: 2.6, insetTop: -2, insetBottom: -2 }),
      ],
    });
    body.append(element("p", { class: "legend" }, "Bars: measured. Red ticks: predicted before the run began."));
    finish(body, svg, "Time per stage", rows.map((row) => `${row.name}: ${figure(row.seconds)} measured, ${figure(row.predicted)} predicted`).join("; "));
  };
}
