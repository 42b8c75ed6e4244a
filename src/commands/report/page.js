"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colours = [0, 1, 2, 3, 4, 5, 6].map((index) => `var(--c${index})`);
  const dashes = [null, "7 3", "2 3", "9 3 2 3"];
  const colour = (index) => colours[index % colours.length];
  const dash = (index) => dashes[Math.floor(index / colours.length) % dashes.length];

  const minus = (text) => text.replaceAll("-", "−");

  /** Where a bin begins, as short as it can be said. */
  function edge(value) {
    // Halves of halves, which four figures do not write whole.
    const parts = Math.round(1 / value);
    if (value > 0 && value < 1 && Number.isInteger(Math.log2(parts)) && Math.abs(value * parts - 1) < 1e-3) return `1/${parts}`;
    return minus(String(value));
  }

  /** A number for people: three figures, and a sign that is one. */
  function figure(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : size >= 1000 ? value.toFixed(0) : value.toPrecision(3);
    return minus(text);
  }

  /** Text that a model or a file brought, with what steers a display spelled out. */
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

  const chartStyle = { background: "none", color: "var(--ink)", fontFamily: "inherit", fontSize: "12px", overflow: "visible" };

  /** What a screen reader is told, and the numbers behind a chart for whoever wants them. */
  function finish(box, svg, name, description, table) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}. ${description}`);
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = name;
    svg.prepend(title);
    const plot = element("div", { class: "plot" }, svg);
    box.append(plot);
    if (table) box.append(behind(name, table));
    return plot;
  }

  /** A table that is made when it is opened: most never are. */
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

  /** Where a chart's numbers come from: one click. */
  function origin(stage) {
    return element("span", { class: "aside" }, element("a", { href: `#${stage.anchor}`, "aria-label": `Provenance: the source, key and versions of ${visible(stage.name)}` }, "provenance"));
  }

  function caption(text, stage, ...more) {
    return element("figcaption", {}, element("span", {}, text), ...more, stage ? origin(stage) : null);
  }

  /** What a sheet of paper has, A4 or letter, in the points that charts are drawn in; half of it for one of a pair. */
  const paper = 700;
  let printing = false;

  function widthOf(box, most) {
    if (printing) return box.closest(".pair") ? (paper - 30) / 2 : paper;
    return Math.max(280, Math.min(most, box.clientWidth || most));
  }

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
    const positive = (point) => scale !== "log" || point.value > 0;
    const marks = [
      Plot.areaY(bands, { x: "step", y1: "low", y2: "high", z: "index", fill: (d) => colour(d.index), fillOpacity: 0.14, ariaHidden: "true" }),
      ...names.map((_, index) => Plot.line(points.filter((point) => point.index === index && positive(point)), {
        x: "step", y: "value", stroke: colour(index), strokeWidth: 1.8, strokeDasharray: dash(index), strokeLinejoin: "round",
      })),
      ...names.map((_, index) => Plot.line(floorPoints.filter((point) => point.index === index && positive(point)), {
        x: "step", y: "value", stroke: colour(index), strokeWidth: 1.2, strokeDasharray: "1 3",
      })),
    ];
    // A single point is no line.
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
    const plot = finish(box, svg, name, description, table);
    reader(plot, svg, steps, (at) => names.map((label, index) => [label, series[index].mean[at], series[index].low?.[at], series[index].high?.[at], floors?.[index]?.mean[at]]));
    return points.length;
  }

  /** A line that follows the mouse or the arrow keys, and what stands at it in words. */
  function reader(plot, svg, steps, at) {
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
      readout.replaceChildren(element("b", {}, `step ${Math.round(steps[index])}`));
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

  const metrics = {
    reward: ["Reward", "mean reward"],
    dropped: ["Completions that `keep` left out", "completions"],
    divergence: ["Divergence from the teacher", "nats per token"],
    loss: ["Loss of the step", "loss"],
    entropy: ["Entropy of the student", "nats per token"],
    length: ["Length of completions", "tokens"],
    truncated: ["Completions that were cut off", "fraction"],
    signal_mean: ["Size of the signal", "mean size per token"],
    clipped_fraction: ["Tokens at the bound of a clip", "fraction"],
    accepted: ["Drafted tokens that stood", "fraction"],
    accepted_length: ["Tokens of a completion per draft", "tokens"],
    agreement: ["Agreement of teachers' continuations with the student's blocks", "fraction"],
    correct_of_others: ["What other models got right of the prompts", "fraction"],
    derived: ["Completions of derived prompts", "fraction"],
    replayed: ["Replayed completions", "fraction"],
    unavailable: ["Completions that a teacher could not judge", "completions"],
    unstated: ["Confidences that members of a panel did not state", "count"],
    chosen_prompts: ["Prompts chosen", "prompts"],
    priority: ["Mean priority of the chosen prompts", "priority"],
    gradient_norm: ["Norm of the gradient before clipping", "norm"],
    learning_rate: ["Learning rate", "learning rate"],
    learned: ["What the run itself found (`learned`)", "fraction"],
    validation_loss: ["Loss on validation rows", "nats per token"],
    extrapolated: ["How far weights were extrapolated", "changes since the last time"],
    judged: ["Benchmark that extrapolation goes by", "mean reward"],
    expert_entropy: ["Evenness of experts", "fraction of the most"],
    expert_largest_share: ["Largest share of an expert", "fraction"],
    seconds: ["Time of a step", "seconds"],
  };

  function learning(stage) {
    for (const { metric } of stage.series) {
      if (metric.startsWith("reward.")) metrics[metric] ??= [`Part \`${metric.slice("reward.".length)}\` of the reward`, "mean of the part"];
      if (metric.startsWith("grad_norm.")) metrics[metric] ??= [`Norm of the gradient of \`${metric.slice("grad_norm.".length)}\``, "norm"];
      if (metric.startsWith("alignment.")) metrics[metric] ??= [`Cosine of gradients: ${metric.slice("alignment.".length).split(".").map((part) => `\`${part}\``).join(" and ")}`, "cosine"];
      if (metric.startsWith("state.")) metrics[metric] ??= [`The state \`${metric.slice("state.".length)}\``, metric.slice("state.".length)];
    }
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
        ? "Absolute mean log-ratio per token. The dotted line is its numerical noise: the difference between the student’s log-probability at sampling and at scoring."
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

  const range = (low, high) => (high === null ? `${figure(low)} and more` : `${figure(low)} to ${figure(high)}`);

  function weights(stage) {
    if (!stage.histograms.length) return null;
    // Where the objective weighs, that is what one comes for.
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

  const lenses = {
    advantage: ["advantage", "nats; the update makes tokens above 0 more probable", true],
    divergence: ["divergence", "log-ratio of student to teacher, in nats", true],
    weight: ["weight", "the objective’s weight", false],
    signal: ["signal", "absolute signal, before reduce", false],
    entropy: ["entropy", "of the student, in nats", false],
  };

  function tokens(stage) {
    if (!stage.samples.length) return null;
    const box = element("figure", { "data-chart": "tokens" });
    const name = (sample) => `step ${sample.step}, ${visible(sample.domain)}, ${sample.sample + 1}${sample.reward === null ? "" : `, reward ${figure(sample.reward)}`}`;
    const which = element("select", { "aria-label": "Sample" }, ...stage.samples.map((sample, index) => element("option", { value: index }, name(sample))));
    const known = (sample) => Object.keys(lenses).filter((lens) => sample[lens]?.some((value) => value !== null));
    const all = Object.keys(lenses).filter((lens) => stage.samples.some((sample) => known(sample).includes(lens)));
    const lens = element("select", { "aria-label": "Coloured by" }, ...all.map((one) => element("option", { value: one }, `by ${lenses[one][0]}`)));
    const body = element("div");
    box.append(caption("Tokens with the signals of the objective", stage, which, lens), body);
    const draw = () => {
      body.replaceChildren();
      const sample = stage.samples[Number(which.value)];
      const [label, meaning, signed] = lenses[lens.value];
      const values = sample[lens.value] ?? [];
      // One scale for all samples of the stage, so that they can be compared.
      const most = Math.max(1e-12, ...stage.samples.flatMap((one) => (one[lens.value] ?? []).map((value) => Math.abs(value ?? 0))));
      const paint = (value) => {
        if (value === null || value === undefined) return "none";
        const part = Math.round(78 * Math.sqrt(Math.abs(value) / most));
        return `color-mix(in srgb, var(--${signed ? (value < 0 ? "less" : "more") : "plain"}) ${part}%, transparent)`;
      };
      const readout = element("p", { class: "readout", "aria-live": "polite" });
      const say = (index) => {
        const facts = [["log-probability", sample.logp], ["of the teacher", sample.teacher], ["divergence", sample.divergence], ["entropy", sample.entropy], ["weight", sample.weight], ["signal", sample.signal], ["advantage", sample.advantage]];
        const shown = facts.filter(([, numbers]) => numbers?.[index] !== null && numbers?.[index] !== undefined);
        readout.replaceChildren(element("b", {}, `token ${index}`), ...shown.map(([fact, numbers]) => `  ·  ${fact} ${figure(numbers[index])}`), sample.selected?.[index] === false ? "  ·  not selected" : "");
      };
      const list = element("div", { class: "tokens", role: "toolbar", "aria-label": "The tokens of the completion; arrow keys go from one to the next" });
      list.append(element("span", { class: "prompt" }, visible(sample.prompt)));
      sample.text.forEach((text, index) => {
        const shown = text === "" ? element("span", { class: "mark" }, index + 1 === sample.length ? "■" : "·") : visible(text);
        const button = element("button", {
          type: "button", tabindex: index === 0 ? "0" : "-1", class: sample.selected?.[index] === false ? "out" : null,
          "aria-label": `${text === "" ? (index + 1 === sample.length ? "end" : "part of a character") : visible(text)}, ${label} ${figure(values[index])}`,
          on: { pointerenter: () => say(index), focus: () => say(index) },
        }, shown);
        button.style.background = paint(values[index]);
        list.append(button);
      });
      if (sample.length > sample.text.length) list.append(element("span", { class: "mark" }, ` and ${sample.length - sample.text.length} more`));
      list.addEventListener("keydown", (event) => {
        const buttons = [...list.querySelectorAll("button")];
        const from = buttons.indexOf(document.activeElement);
        const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: buttons.length - 1 }[event.key];
        if (to === undefined || !buttons[to]) return;
        event.preventDefault();
        buttons[from]?.setAttribute("tabindex", "-1");
        buttons[to].setAttribute("tabindex", "0");
        buttons[to].focus();
      });
      const scale = element("span", { class: "scale" });
      scale.style.background = `linear-gradient(to right in srgb, ${(signed ? [-1, -0.5, -0.25, 0, 0.25, 0.5, 1] : [0, 0.05, 0.25, 0.5, 1]).map((part) => paint(part * most)).join(", ")})`;
      const teacher = sample.teacher_name ? `, scored by ${visible(sample.teacher_name)}` : "";
      body.append(
        element("p", { class: "legend" }, `${label}: ${meaning}. `, element("span", { class: "ends" }, signed ? figure(-most) : "0", scale, figure(most)), `  ·  seed ${sample.seed}${teacher}`),
        list, readout,
        behind(`Tokens of ${name(sample)}`, {
          columns: ["token", "text", "log-probability", "teacher", "divergence", "entropy", "weight", "signal", "advantage"],
          rows: sample.text.map((text, index) => [String(index), visible(text), ...[sample.logp, sample.teacher, sample.divergence, sample.entropy, sample.weight, sample.signal, sample.advantage].map((numbers) => numbers?.[index] ?? null)]),
        }),
      );
      box.dataset.points = sample.text.length;
    };
    which.addEventListener("change", draw);
    lens.addEventListener("change", draw);
    // Where most is to be seen.
    const much = (sample) => d3.mean(sample[all[0]] ?? [], (value) => Math.abs(value ?? 0)) ?? 0;
    which.value = String(d3.maxIndex(stage.samples, much));
    return [box, draw];
  }

  const trained = data.stages.filter((stage) => stage.at.length);
  let drawn = [];
  function show(stage) {
    const into = document.getElementById("stage-charts");
    into.replaceChildren();
    document.getElementById("stage").value = String(stage.id);
    const seeds = stage.seeds > 1 ? `, mean of ${stage.seeds} seeds, shaded from the lowest to the highest` : "";
    const bins = stage.whole ? "" : `; each point is a mean over ${Math.round(stage.steps / stage.at.length)} steps`;
    document.getElementById("stage-facts").textContent = `${stage.kind}, ${stage.steps} steps${seeds}${bins}`;
    const [first, ...last] = [learning, weights, tokens].map((make) => make(stage));
    const half = [divergence(stage), shares(stage, "domain", stage.domains), shares(stage, "teacher", stage.teachers)].filter(Boolean);
    if (first) into.append(first[0]);
    for (let at = 0; at < half.length; at += 2) into.append(element("div", { class: "pair" }, ...half.slice(at, at + 2).map(([box]) => box)));
    for (const made of last) if (made) into.append(made[0]);
    // Drawn when they stand in the page: then their width is known.
    drawn = [first, ...half, ...last].filter(Boolean).map(([, draw]) => draw);
    for (const draw of drawn) draw();
    if (stage.left_out) into.append(element("p", { class: "note" }, `${stage.left_out} of this stage are left out to keep the page small; they are in the run’s folder.`));
  }

  function scores(box) {
    const table = data.tables[Number(box.dataset.table)];
    const columns = [...table.domains, ...(table.normalized ? ["normalized"] : [])];
    const rows = table.rows.flatMap((row) => columns.map((column, index) => ({ model: row.model, column, ...row.cells[index] })).filter((row) => row.mean !== undefined && row.mean !== null));
    box.dataset.points = rows.length;
    const body = element("div");
    box.append(body);
    const draw = () => {
      body.replaceChildren();
      const longest = Math.min(150, 14 + 6.6 * Math.max(...table.rows.map((row) => row.model.length)));
      const width = widthOf(body, 1010);
      const panels = Math.max(1, Math.min(columns.length, Math.floor((width - longest) / 150)));
      // A panel below another has room for its name.
      const [panel, between, rowsOfPanels] = [21 * table.rows.length, 34, Math.ceil(columns.length / panels)];
      const svg = Plot.plot({
        width, height: 26 + rowsOfPanels * panel + (rowsOfPanels - 1) * between + 30, marginLeft: longest, marginRight: 12, marginTop: 26, marginBottom: 30, style: chartStyle,
        fx: { domain: d3.range(panels), label: null, axis: null, padding: 0.16 },
        fy: { domain: d3.range(rowsOfPanels), label: null, axis: null, paddingInner: between / (panel + between), paddingOuter: 0, round: false },
        x: { label: null, ticks: 3, grid: true, nice: true }, y: { domain: table.rows.map((row) => row.model), label: null, tickSize: 0 },
        marks: [
          Plot.text(columns.map((column, index) => ({ column, index })), { text: (d) => visible(d.column), fx: (d) => d.index % panels, fy: (d) => Math.floor(d.index / panels), frameAnchor: "top-left", dy: -18, fontWeight: 600 }),
          Plot.ruleY(rows, { fx: (d) => columns.indexOf(d.column) % panels, fy: (d) => Math.floor(columns.indexOf(d.column) / panels), y: "model", x1: "low", x2: "high", stroke: "var(--heat)", strokeWidth: 2.4, strokeOpacity: 0.5, strokeLinecap: "round" }),
          Plot.dot(rows, { fx: (d) => columns.indexOf(d.column) % panels, fy: (d) => Math.floor(columns.indexOf(d.column) / panels), y: "model", x: "mean", fill: "var(--heat)", r: 3.6, title: (d) => `${d.model}, ${d.column}: ${figure(d.mean)} (${figure(d.low)} to ${figure(d.high)})` }),
        ],
      });
      const best = d3.greatest(rows.filter((row) => row.column === columns.at(-1)), (row) => row.mean);
      finish(body, svg, `${table.name}: means with 95% intervals`, best ? `Highest on ${best.column}: ${best.model} with ${figure(best.mean)}. The table above has every number` : "");
    };
    return draw;
  }

  function graph(box) {
    const known = data.stages;
    box.dataset.points = known.length;
    const g = new dagre.graphlib.Graph();
    g.setGraph({ rankdir: "LR", nodesep: 12, ranksep: 46, marginx: 6, marginy: 6 });
    g.setDefaultEdgeLabel(() => ({}));
    const short = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);
    for (const stage of known) g.setNode(String(stage.id), { width: 20 + 6.9 * Math.max(short(visible(stage.name)).length, stage.kind.length * 0.9), height: 38 });
    for (const edge of data.edges) g.setEdge(String(edge.from), String(edge.to), { carries: edge.carries });
    dagre.layout(g);
    const { width } = g.graph();
    // Edges may bow out further than the boxes.
    const ends = [...g.nodes().map((id) => g.node(id).y + 19), ...g.edges().flatMap((edge) => g.edge(edge).points.map((point) => point.y))];
    const top = Math.min(0, d3.min(ends) - 24);
    const height = d3.max(ends) + 8 - top;
    const svg = d3.create("svg").attr("viewBox", [0, top, width, height]).attr("width", width).attr("height", height).attr("role", "group");
    svg.append("defs").append("marker").attr("id", "arrow").attr("viewBox", "0 0 8 8").attr("refX", 7).attr("refY", 4).attr("markerWidth", 6).attr("markerHeight", 6).attr("orient", "auto")
      .append("path").attr("d", "M0,0.8 L7,4 L0,7.2").attr("fill", "none").attr("stroke", "var(--soft)");
    const line = d3.line((point) => point.x, (point) => point.y).curve(d3.curveBasis);
    for (const edge of g.edges()) {
      const { points, carries } = g.edge(edge);
      svg.append("path").attr("class", carries ? "edge" : "edge teaches").attr("d", line(points)).attr("marker-end", "url(#arrow)");
    }
    for (const stage of known) {
      const { x, y, width: w, height: h } = g.node(String(stage.id));
      const made = data.edges.filter((edge) => edge.to === stage.id).map((edge) => known.find((one) => one.id === edge.from).name);
      const link = svg.append("a").attr("class", "node").attr("href", `#${stage.anchor}`).attr("aria-label", `${stage.name}, ${stage.kind}${made.length ? `, from ${made.join(", ")}` : ""}`);
      link.append("rect").attr("x", x - w / 2).attr("y", y - h / 2).attr("width", w).attr("height", h).attr("rx", 7).style("stroke", `var(--c${{ sft: 0, grpo: 2, distill: 1, merge: 4, dpo: 5 }[stage.kind] ?? 6})`);
      link.append("text").attr("x", x).attr("y", y - 2).attr("text-anchor", "middle").text(short(visible(stage.name)));
      link.append("text").attr("class", "kind").attr("x", x).attr("y", y + 12).attr("text-anchor", "middle").text(stage.kind);
    }
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `The plan: ${known.length} stages`;
    svg.node().prepend(title);
    box.append(element("div", { id: "graph-box", tabindex: "0", role: "region", "aria-label": "The plan as a graph" }, svg.node()));
  }

  function cost(box) {
    const rows = data.stages.filter((stage) => stage.seconds !== null || stage.predicted !== null);
    if (!rows.length) {
      box.remove();
      return null;
    }
    box.dataset.points = rows.length;
    const body = element("div");
    box.append(caption("Seconds of each stage, predicted and spent"), body);
    return () => {
      body.replaceChildren();
      const longest = Math.min(170, 14 + 6.6 * Math.max(...rows.map((row) => row.name.length)));
      const svg = Plot.plot({
        width: widthOf(body, 760), height: 44 + 20 * rows.length, marginLeft: longest, marginRight: 20, marginTop: 8, marginBottom: 34, style: chartStyle,
        x: { label: "seconds, all seeds", labelAnchor: "right", labelArrow: "none", grid: true, ticks: 6 }, y: { domain: rows.map((row) => row.name), label: null, tickSize: 0, padding: 0.3 },
        marks: [
          Plot.barX(rows.filter((row) => row.seconds !== null), { x: "seconds", y: "name", fill: "var(--heat)", fillOpacity: 0.75, rx2: 2, title: (row) => `${row.name}: ${figure(row.seconds)} s spent${row.predicted === null ? "" : `, ${figure(row.predicted)} s predicted`}` }),
          Plot.tickX(rows.filter((row) => row.predicted !== null), { x: "predicted", y: "name", stroke: "var(--c1)", strokeWidth: 2.6, insetTop: -2, insetBottom: -2 }),
        ],
      });
      body.append(element("p", { class: "legend" }, "Bars: spent. Red ticks: predicted before the run began."));
      finish(body, svg, "Seconds of each stage", rows.map((row) => `${row.name}: ${figure(row.seconds)} spent, ${figure(row.predicted)} predicted`).join("; "));
    };
  }

  const redraw = [];
  for (const box of document.querySelectorAll("figure[data-chart=scores]")) redraw.push(scores(box));
  graph(document.querySelector("figure[data-chart=graph]"));
  redraw.push(cost(document.querySelector("figure[data-chart=cost]")));
  for (const draw of redraw) draw?.();

  function fromAddress() {
    const match = /^#train-(\d+)$/.exec(location.hash);
    const stage = match && trained.find((one) => one.id === Number(match[1]));
    if (!stage) return false;
    show(stage);
    document.getElementById("training").scrollIntoView();
    return true;
  }
  if (trained.length) {
    const picker = document.getElementById("stage");
    picker.append(...trained.map((stage) => element("option", { value: stage.id }, visible(stage.name))));
    picker.addEventListener("change", () => show(trained.find((stage) => String(stage.id) === picker.value)));
    if (!fromAddress()) show(trained.find((stage) => stage.kind === "distill") ?? trained.at(-1));
    addEventListener("hashchange", fromAddress);
  }
  // What was chosen stays chosen.
  const all = () => {
    for (const draw of [...redraw, ...drawn]) draw?.();
  };
  let waiting = null;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(all, 150);
  });
  // Charts that were made for a window are made again for the paper, and the other way round.
  addEventListener("beforeprint", () => {
    printing = true;
    all();
  });
  addEventListener("afterprint", () => {
    printing = false;
    all();
  });
  document.documentElement.dataset.drawn = "yes";
})();
