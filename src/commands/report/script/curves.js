// Curves over training steps, read with the mouse or the keyboard.

/** Lines over training steps, one per name, with the range over seeds; read with the mouse or with the arrow keys. */
function lines(box, { name, unit, names, series, steps, scale, floors, most = 1010, height = 250 }) {
  const points = [];
  const bands = [];
  const floorPoints = [];
  names.forEach((_, index) => {
    const { mean, low, high } = series[index];
    const floor = floors?.[index];
    steps.forEach((step, at) => {
      if (mean[at] !== null) points.push({ step, value: scale === "log" ? Math.abs(mean[at]) : mean[at], index });
      if (low?.[at] !== null && low && scale !== "log") bands.push({ step, low: low[at], high: high[at], index });
      if (floor && floor.mean[at] !== null) floorPoints.push({ step, value: floor.mean[at], index });
    });
  });
  // Noise far below the curve would press it flat against the top, so it is described in words instead.
  const values = points.map((point) => point.value).filter((value) => scale !== "log" || value > 0);
  const lowest = d3.min(values) ?? 0;
  const hidden = floors ? names.map((_, index) => floorPoints.some((point) => point.index === index && point.value < lowest / 10)) : [];
  const floorsDrawn = floorPoints.filter((point) => !hidden[point.index]);
  const positive = (point) => scale !== "log" || point.value > 0;
  const marks = [
    Plot.areaY(bands, { x: "step", y1: "low", y2: "high", z: "index", fill: (d) => colour(d.index), fillOpacity: 0.14, ariaHidden: "true" }),
    ...names.map((_, index) => Plot.line(points.filter((point) => point.index === index && positive(point)), {
      x: "step", y: "value", stroke: colour(index), strokeWidth: 1.8, strokeDasharray: dash(index), strokeLinejoin: "round",
    })),
    ...names.map((_, index) => Plot.line(floorsDrawn.filter((point) => point.index === index && positive(point)), {
      x: "step", y: "value", stroke: colour(index), strokeWidth: 1.2, strokeDasharray: "1 3",
    })),
  ];
  // A single point can't be drawn as a line.
  if (steps.length === 1) marks.push(Plot.dot(points.filter(positive), { x: "step", y: "value", fill: (d) => colour(d.index), r: 3 }));
  const width = widthOf(box, most);
  const svg = Plot.plot({
    width, height, marginLeft: 52, marginRight: 12, marginTop: 28, marginBottom: 34, style: chartStyle,
    x: { label: "step", labelAnchor: "right", labelArrow: "none", tickFormat: "d", ticks: Math.max(2, Math.min(10, width / 90)), nice: false, domain: steps.length > 1 ? undefined : [steps[0] - 1, steps[0] + 1] },
    y: { label: unit, labelArrow: "none", grid: true, type: scale === "log" ? "log" : "linear", ticks: scale === "log" ? 5 : 5, tickFormat: scale === "log" ? (value) => value.toExponential(0).replace("e-", "e−").replace("e+", "e") : undefined },
    marks,
  });
  const last = (index) => series[index].mean.filter((value) => value !== null).at(-1);
  const description = names.map((label, index) => `${label || "all"}: ${figure(series[index].mean.find((value) => value !== null))} at first, ${figure(last(index))} at the end`).join("; ");
  const columns = ["step", ...names.map((label) => visible(label || name))];
  if (floors) columns.push(...names.map((label) => `${visible(label)}, noise`));
  const table = { columns, rows: steps.map((step, at) => [String(Math.round(step)), ...series.map((one) => one.mean[at]), ...(floors ?? []).map((one) => one?.mean[at] ?? null)]) };
  const legend = keys(names);
  if (legend) box.append(legend);
  const under = names.flatMap((label, index) => {
    const own = floorPoints.filter((point) => point.index === index).map((point) => point.value);
    return hidden[index] ? [`${visible(label || name)} ${figure(d3.min(own))} to ${figure(d3.max(own))}`] : [];
  });
  if (under.length) box.append(element("p", { class: "legend" }, `The noise is below the axis: ${under.join("; ")}.`));
  const plot = finish(box, svg, name, description, table);
  reader(plot, svg, steps, (at) => names.map((label, index) => [label, series[index].mean[at], series[index].low?.[at], series[index].high?.[at], floors?.[index]?.mean[at]]));
  return points.length;
}

/** A rule that follows the mouse or the arrow keys, with the values there as text. */
function reader(plot, svg, steps, at, say = (step) => `step ${Math.round(step)}`) {
  const x = svg.scale ? svg.scale("x") : null;
  const scale = x ?? plot.querySelector("svg")?.scale?.("x");
  if (!scale) return;
  const svgs = svg.tagName.toLowerCase() === "svg" ? svg : svg.querySelector("svg");
  const height = Number(svgs.getAttribute("height"));
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [key, value] of Object.entries({ y1: 14, y2: height - 34, stroke: "currentColor", "stroke-opacity": 0.35, visibility: "hidden" })) rule.setAttribute(key, value);
  svgs.append(rule);
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  plot.append(readout);
  plot.setAttribute("tabindex", "0");
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", "Chart; the left and right arrow keys read it step by step");
  let current = null;
  const show = (index) => {
    current = index;
    const place = scale.apply(steps[index]);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    rule.setAttribute("visibility", "visible");
    readout.replaceChildren(element("b", {}, say(steps[index])));
    for (const [label, value, low, high, floor] of at(index)) {
      const range = low !== undefined && low !== null && low !== high ? ` (${figure(low)} to ${figure(high)} over seeds)` : "";
      const noise = floor !== undefined && floor !== null ? `, noise ${figure(floor)}` : "";
      readout.append(`  ·  ${label ? `${visible(label)} ` : ""}${figure(value)}${range}${noise}`);
    }
  };
  const hide = () => {
    rule.setAttribute("visibility", "hidden");
    readout.replaceChildren();
    current = null;
  };
  plot.addEventListener("pointermove", (event) => {
    const bounds = svgs.getBoundingClientRect();
    const place = ((event.clientX - bounds.left) / bounds.width) * Number(svgs.getAttribute("width"));
    show(d3.leastIndex(steps, (step) => Math.abs(scale.apply(step) - place)));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = steps.length - 1;
    const to = { ArrowLeft: Math.max(0, (current ?? last + 1) - 1), ArrowRight: Math.min(last, (current ?? -1) + 1), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

function seriesOf(stage, metric, by) {
  return stage.series.filter((one) => one.metric === metric && one.by === by);
}

// The other metrics are in the table of the numbers of a step.
metrics.tokens_per_second = ["Speed", "completion tokens per second"];

/** Adds the metrics whose names depend on the run. */
function nameMetrics(stage) {
  for (const { metric } of stage.series) {
    if (metric.startsWith("reward.")) metrics[metric] ??= [`Part \`${metric.slice("reward.".length)}\` of the reward`, "mean of the part"];
    if (metric.startsWith("grad_norm.")) metrics[metric] ??= [`Gradient norm of \`${metric.slice("grad_norm.".length)}\``, "norm"];
    if (metric.startsWith("alignment.")) metrics[metric] ??= [`Cosine similarity of gradients: ${metric.slice("alignment.".length).split(".").map((part) => `\`${part}\``).join(" and ")}`, "cosine"];
    if (metric.startsWith("state.")) metrics[metric] ??= [`The state \`${metric.slice("state.".length)}\``, metric.slice("state.".length)];
  }
}

function learning(stage) {
  nameMetrics(stage);
  const known = Object.keys(metrics).filter((metric) => stage.series.some((one) => one.metric === metric && one.by !== "teacher"));
  if (!known.length) return null;
  const box = element("figure", { "data-chart": "learning" });
  const choice = element("select", { "aria-label": "What the learning curves show" }, ...known.map((metric) => element("option", { value: metric }, metrics[metric][0])));
  choice.value = known.includes(learning.chosen) ? learning.chosen : known[0];
  const body = element("div");
  box.append(caption("Learning curves", stage, choice), body);
  const draw = () => {
    body.replaceChildren();
    const [name, unit] = metrics[choice.value];
    const found = stage.series.filter((one) => one.metric === choice.value && one.by !== "teacher");
    const count = lines(body, { name: `${name}, ${stage.name}`, unit, names: found.map((one) => one.of), series: found, steps: stage.at });
    box.dataset.points = count;
  };
  choice.addEventListener("change", () => {
    learning.chosen = choice.value;
    draw();
  });
  return [box, draw];
}

function divergence(stage) {
  const found = seriesOf(stage, "divergence", "teacher");
  if (!found.length) return null;
  const floors = found.map((one) => seriesOf(stage, "divergence_floor", "teacher").find((floor) => floor.of === one.of));
  const box = element("figure", { "data-chart": "divergence" });
  const body = element("div");
  box.append(caption("Divergence from each teacher", stage), body);
  const noise = floors.some(Boolean);
  const draw = () => {
    body.replaceChildren();
    body.append(element("p", { class: "legend" }, noise
      ? "Absolute mean log-ratio per token. Dotted, where it is near: its numerical noise, the difference between the student’s log-probability at sampling and at scoring."
      : "Absolute mean log-ratio per token. The student did not sample these tokens itself at temperature 1, so its noise is not known."));
    box.dataset.points = lines(body, {
      name: `Divergence from each teacher, ${stage.name}`, unit: "nats per token", names: found.map((one) => one.of), series: found, steps: stage.at, scale: "log", floors: noise ? floors : undefined, most: 480, height: 240,
    });
  };
  return [box, draw];
}

function shares(stage, by, names) {
  const kinds = [["prompt_share", "prompts"], ["token_share", "tokens"], ["signal_share", "signal"]];
  if (names.length < 2) return null;
  const rows = [];
  for (const [metric, kind] of kinds) {
    for (const one of seriesOf(stage, metric, by)) {
      stage.at.forEach((step, at) => {
        if (one.mean[at] !== null) rows.push({ step, share: one.mean[at], kind, of: one.of, index: names.indexOf(one.of) });
      });
    }
  }
  if (!rows.length) return null;
  const shown = kinds.map(([, kind]) => kind).filter((kind) => rows.some((row) => row.kind === kind));
  const box = element("figure", { "data-chart": by === "domain" ? "shares" : "shares-of-teachers" });
  const body = element("div");
  box.append(caption(by === "domain" ? "Shares of prompts, tokens and signal" : "Shares of each teacher", stage), body);
  box.dataset.points = rows.length;
  const draw = () => {
    body.replaceChildren();
    body.append(element("p", { class: "legend" }, by === "domain"
      ? "Each domain’s share of a step. If the signal is distributed differently from the prompts, one domain dominates the update."
      : "The share of a step that each teacher scores. The data routes each prompt."));
    body.append(keys(names));
    const svg = Plot.plot({
      width: widthOf(body, 480), height: 240, marginLeft: 52, marginRight: 6, marginTop: 26, marginBottom: 34, style: chartStyle,
      fx: { domain: shown, label: null, padding: 0.12 },
      x: { label: "step", labelAnchor: "right", labelArrow: "none", ticks: 3, tickFormat: "d" },
      y: { label: null, percent: true, domain: [0, 100], ticks: 5, tickFormat: (value) => `${value}%` },
      marks: [Plot.areaY(rows, Plot.stackY({ fx: "kind", x: "step", y: "share", z: "index", fill: (row) => colour(row.index), order: "index", fillOpacity: 0.85, stroke: "var(--ground)", strokeWidth: 0.6 }))],
    });
    const mean = (kind, of) => d3.mean(rows.filter((row) => row.kind === kind && row.of === of), (row) => row.share);
    const description = shown.map((kind) => `${kind}: ${names.map((of) => `${of} ${Math.round(100 * mean(kind, of))}%`).join(", ")}`).join("; ");
    finish(body, svg, `Shares of each ${by}, ${stage.name}`, `Means over the stage. ${description}`, {
      columns: [by, ...shown.map((kind) => `${kind}, mean`)],
      rows: names.map((of) => [visible(of), ...shown.map((kind) => mean(kind, of) ?? null)]),
    });
  };
  return [box, draw];
}
