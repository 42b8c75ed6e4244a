// Sampled completions, token by token.

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
        type: "button", class: sample.selected?.[index] === false ? "out" : null,
        "aria-label": `${text === "" ? (index + 1 === sample.length ? "end" : "part of a character") : visible(text)}, ${label} ${figure(values[index])}`,
        on: { pointerenter: () => say(index), focus: () => say(index) },
      }, shown);
      button.style.background = paint(values[index]);
      list.append(button);
    });
    if (sample.length > sample.text.length) list.append(element("span", { class: "mark" }, ` and ${sample.length - sample.text.length} more`));
    roving(list, "button");
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
