// Curves of any stages, seeds and runs in one chart.

/** The most lines that colours and dashes can distinguish. */
const mostLines = colours.length * dashes.length;

const axes = {
  step: { label: "step", say: (x) => `step ${Math.round(x)}`, of: (stage) => ({ mean: stage.at, by_seed: stage.seeds.map(() => stage.at) }) },
  tokens: { label: "completion tokens trained on", say: (x) => `${figure(x)} tokens`, of: (stage) => stage.elapsed_tokens },
  seconds: { label: "seconds of training", say: (x) => `${figure(x)} s`, of: (stage) => stage.elapsed_seconds },
};

/** An exponential moving average over points, without bias at the beginning. */
function ema(values, factor) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = factor * sum + (1 - factor) * value;
    weight = factor * weight + (1 - factor);
    return sum / weight;
  });
}

function overlay(box) {
  const stages = trained;
  for (const stage of stages) nameMetrics(stage);
  const ofStage = (stage, metric) => stage.series.filter((one) => one.metric === metric && one.by !== "teacher");
  const known = Object.keys(metrics).filter((metric) => stages.some((stage) => ofStage(stage, metric).length));
  if (!known.length) {
    box.remove();
    return null;
  }
  const stageName = (stage) => (data.runs.length > 1 ? `${data.runs[stage.run]}: ` : "") + visible(stage.name);
  const select = (label, options) => {
    const made = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
    return [made, element("label", {}, `${label} `, made)];
  };
  const [metric, metricLabel] = select("Metric", known.map((one) => [one, metrics[one][0]]));
  const domains = [...new Set(stages.flatMap((stage) => stage.domains))];
  const [domain, domainLabel] = select("Domain", [["", "each"], ...domains.map((one) => [one, visible(one)])]);
  const [seeds, seedsLabel] = select("Seeds", [["mean", "mean"], ["each", "each"]]);
  const present = Object.keys(axes).filter((axis) => stages.some((stage) => axes[axis].of(stage)));
  const [axis, axisLabel] = select("X axis", present.map((one) => [one, { step: "steps", tokens: "tokens", seconds: "time" }[one]]));
  const [smooth, smoothLabel] = select("Smoothing", [["", "none"], ...[0.5, 0.8, 0.9, 0.95, 0.98].map((one) => [one, `EMA ${one}`])]);
  const log = element("input", { type: "checkbox" });
  const [from, to] = ["from", "to"].map((name) => element("input", { type: "number", step: "any", size: "7", class: "bound", "aria-label": `X axis ${name}`, placeholder: name }));
  const whole = element("button", { type: "button", class: "plain" }, "whole range");
  const distilled = stages.filter((stage) => stage.kind === "distill");
  const first = new Set((distilled.length ? distilled : stages.slice(-1)).slice(0, 4));
  const boxes = stages.map((stage) => {
    const check = element("input", { type: "checkbox" });
    check.checked = first.has(stage);
    return [stage, check, element("label", {}, check, ` ${stageName(stage)}`)];
  });
  const all = element("button", { type: "button", class: "plain" }, "all");
  const none = element("button", { type: "button", class: "plain" }, "none");
  const summary = element("summary");
  const chosen = element("details", { class: "choose" }, summary, element("div", { class: "wide" }, all, " ", none, ...boxes.map(([, , label]) => label)));
  const body = element("div");
  const range = element("span", { class: "range" }, "Zoom ", from, " – ", to, " ", whole);
  if (domains.length < 2) domainLabel.hidden = true;
  if (stages.every((stage) => stage.seeds.length < 2)) seedsLabel.hidden = true;
  box.append(
    caption("Chosen stages, seeds and runs", null),
    element("div", { class: "controls" }, metricLabel, domainLabel, seedsLabel, axisLabel, smoothLabel, element("label", {}, log, " log scale"), range),
    chosen, body,
  );

  /** The requested lines, and those that can't be drawn. */
  const asked = () => {
    const lines = [];
    const missing = [];
    let left = false;
    for (const [stage, check] of boxes) {
      if (!check.checked) continue;
      const elapsed = axes[axis.value].of(stage);
      if (!elapsed) {
        missing.push(stageName(stage));
        continue;
      }
      const found = ofStage(stage, metric.value).filter((one) => !domain.value || one.by === "step" || !one.of || one.of === domain.value);
      for (const one of found) {
        const name = [stageName(stage), visible(one.of)].filter(Boolean).join(", ");
        if (seeds.value === "each" && stage.seeds.length > 1 && !one.by_seed) left = true;
        if (seeds.value === "each" && one.by_seed) one.by_seed.forEach((values, at) => lines.push({ name: `${name}, seed ${stage.seeds[at]}`, xs: elapsed.by_seed[at], values }));
        else lines.push({ name, xs: elapsed.mean, values: one.mean, low: one.low, high: one.high });
      }
    }
    return [lines, missing, left];
  };

  const draw = () => {
    body.replaceChildren();
    const count = boxes.filter(([, check]) => check.checked).length;
    summary.textContent = `Stages: ${count} of ${stages.length} chosen`;
    const [found, missing, left] = asked();
    const shown = found.slice(0, mostLines);
    const [title, unit] = metrics[metric.value];
    const bound = (input) => (input.value === "" ? null : Number(input.value));
    const [low, high] = [bound(from) ?? -Infinity, bound(to) ?? Infinity];
    const factor = smooth.value === "" ? null : Number(smooth.value);
    // More bands than that would hide each other.
    const banded = shown.filter((line) => line.low).length <= 4 && factor === null && !log.checked;
    const notes = [];
    if (factor !== null) notes.push(`Lines are exponential moving averages over points (factor ${factor}); the faint ones are not smoothed.`);
    if (found.length > shown.length) notes.push(`${shown.length} of ${found.length} lines are drawn: choose fewer.`);
    if (left) notes.push("Curves of single seeds are left out to keep the page small; here are means over seeds.");
    if (missing.length) notes.push(`Without ${axis.value === "tokens" ? "a number of tokens" : "times"}, so not drawn: ${missing.join(", ")}.`);
    if (banded && shown.some((line) => line.low)) notes.push("Shaded: from the lowest to the highest seed.");
    let below = 0;
    const points = [];
    const raw = [];
    const bands = [];
    for (const [index, line] of shown.entries()) {
      const smoothed = factor === null ? line.values : ema(line.values, factor);
      line.shown = [];
      line.xs.forEach((x, at) => {
        const value = smoothed[at];
        if (value === null || x < low || x > high) return;
        if (log.checked && value <= 0) {
          below += 1;
          return;
        }
        const point = { x, value, index, raw: line.values[at], low: line.low?.[at], high: line.high?.[at] };
        line.shown.push(point);
        points.push(point);
        if (factor !== null && (!log.checked || point.raw > 0)) raw.push({ x, value: point.raw, index });
        else if (banded && line.low) bands.push({ x, low: point.low, high: point.high, index });
      });
    }
    if (below) notes.push(`${below} points at or below 0 have no place on a log scale.`);
    box.dataset.points = points.length;
    if (!points.length) {
      body.append(element("p", { class: "note" }, found.length ? "No points in this range." : "Nothing is chosen that has this metric."));
      return;
    }
    if (notes.length) body.append(element("p", { class: "legend" }, notes.join(" ")));
    const legend = keys(shown.map((line) => line.name));
    if (legend) body.append(legend);
    const width = widthOf(body, 1010);
    const styled = (all, more) => d3.groups(all, (point) => point.index).map(([index, own]) => Plot.line(own, { x: "x", y: "value", stroke: colour(index), strokeDasharray: dash(index), strokeLinejoin: "round", ...more }));
    const [least, most] = d3.extent(points, (point) => point.x);
    const svg = Plot.plot({
      width, height: 320, marginLeft: 52, marginRight: 12, marginTop: 28, marginBottom: 34, style: chartStyle,
      x: { label: axes[axis.value].label, labelAnchor: "right", labelArrow: "none", ticks: Math.max(2, Math.min(10, width / 90)), tickFormat: axis.value === "step" ? "d" : "~s", domain: least === most ? [least - 1, most + 1] : [least, most] },
      y: { label: unit, labelArrow: "none", grid: true, ticks: 5, type: log.checked ? "log" : "linear", tickFormat: log.checked ? "~g" : undefined },
      marks: [
        Plot.areaY(bands, { x: "x", y1: "low", y2: "high", z: "index", fill: (d) => colour(d.index), fillOpacity: 0.12, ariaHidden: "true" }),
        ...styled(raw, { strokeWidth: 1, strokeOpacity: 0.28 }),
        ...styled(points, { strokeWidth: 1.8 }),
        ...(least === most ? [Plot.dot(points, { x: "x", y: "value", fill: (d) => colour(d.index), r: 3 })] : []),
      ],
    });
    const name = `${title}, chosen stages`;
    const marked = factor === null ? "" : ` (EMA ${factor})`;
    const description = shown.filter((line) => line.shown.length).map((line) => `${line.name}: ${figure(line.shown[0].value)} at first, ${figure(line.shown.at(-1).value)} at the end`).join("; ");
    const plot = finish(body, svg, name + marked, description, {
      columns: ["line", axes[axis.value].label, title, ...(factor === null ? [] : [`EMA ${factor}`])],
      rows: points.map((point) => [shown[point.index].name, figure(point.x), point.raw, ...(factor === null ? [] : [point.value])]),
    });
    const longest = d3.greatest(shown, (line) => line.shown.length).shown.map((point) => point.x);
    const nearest = (line, x) => line.shown[d3.bisector((point) => point.x).center(line.shown, x)];
    reader(plot, svg, longest, (at) => shown.filter((line) => line.shown.length).map((line) => {
      const point = nearest(line, longest[at]);
      return [line.name, point.value, factor === null ? point.low : undefined, point.high];
    }), axes[axis.value].say);
    drag(plot, svg, (start, end) => {
      [from.value, to.value] = [start, end].map((x) => String(Number(x.toPrecision(4))));
      draw();
    });
  };

  metric.addEventListener("change", draw);
  for (const control of [domain, seeds, smooth, log]) control.addEventListener("change", draw);
  // A range of one axis has no meaning on another.
  axis.addEventListener("change", () => {
    from.value = to.value = "";
    draw();
  });
  for (const input of [from, to]) input.addEventListener("change", draw);
  whole.addEventListener("click", () => {
    from.value = to.value = "";
    draw();
  });
  for (const [, check] of boxes) check.addEventListener("change", draw);
  for (const [button, state] of [[all, true], [none, false]]) {
    button.addEventListener("click", () => {
      for (const [, check] of boxes) check.checked = state;
      draw();
    });
  }
  return draw;
}

/** Selects a range of the x axis with the mouse. */
function drag(plot, svg, taken) {
  const own = svg.tagName.toLowerCase() === "svg" ? svg : svg.querySelector("svg");
  const scale = svg.scale("x");
  const [left, right] = scale.range;
  const at = (event) => {
    const bounds = own.getBoundingClientRect();
    return Math.max(left, Math.min(right, ((event.clientX - bounds.left) / bounds.width) * Number(own.getAttribute("width"))));
  };
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({ y: 14, height: Number(own.getAttribute("height")) - 48, fill: "currentColor", "fill-opacity": 0.1, visibility: "hidden" })) mark.setAttribute(key, value);
  own.append(mark);
  let start = null;
  plot.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) start = at(event);
  });
  plot.addEventListener("pointermove", (event) => {
    if (start === null) return;
    mark.setAttribute("x", Math.min(start, at(event)));
    mark.setAttribute("width", Math.abs(at(event) - start));
    mark.setAttribute("visibility", "visible");
  });
  const end = (event) => {
    if (start === null) return;
    const range = d3.sort([start, at(event)]);
    start = null;
    mark.setAttribute("visibility", "hidden");
    if (range[1] - range[0] > 8) taken(...range.map((place) => scale.invert(place)));
  };
  plot.addEventListener("pointerup", end);
  plot.addEventListener("pointerleave", end);
}
