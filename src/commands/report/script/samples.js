// Sampled completions: a table of all of them, those of one prompt side by side, and one token by token.

const lenses = {
  advantage: ["advantage", "nats; the update makes tokens above 0 more probable", true],
  divergence: ["divergence", "log-ratio of student to teacher, in nats", true],
  weight: ["weight", "the objective’s weight", false],
  signal: ["signal", "absolute signal, before reduce", false],
  entropy: ["entropy", "of the student, in nats", false],
};

const lensesOf = (samples) => Object.keys(lenses).filter((lens) => samples.some((sample) => sample[lens]?.some((value) => value !== null)));

/** The largest absolute value of a signal: one scale for samples that are shown together. */
function largest(samples, lens) {
  let most = 1e-12;
  for (const sample of samples) for (const value of sample[lens] ?? []) most = Math.max(most, Math.abs(value ?? 0));
  return most;
}

function paint(value, most, signed) {
  if (value === null || value === undefined) return "none";
  const part = Math.round(78 * Math.sqrt(Math.abs(value) / most));
  return `color-mix(in srgb, var(--${signed ? (value < 0 ? "less" : "more") : "plain"}) ${part}%, transparent)`;
}

/** The meaning of the colours. */
function lensLegend(lens, most) {
  const [label, meaning, signed] = lenses[lens];
  const scale = element("span", { class: "scale" });
  scale.style.background = `linear-gradient(to right in srgb, ${(signed ? [-1, -0.5, -0.25, 0, 0.25, 0.5, 1] : [0, 0.05, 0.25, 0.5, 1]).map((part) => paint(part * most, most, signed)).join(", ")})`;
  return [`${label}: ${meaning}. `, element("span", { class: "ends" }, signed ? figure(-most) : "0", scale, figure(most))];
}

/** The user's words in a chat; the text before the completion otherwise, and in samples of earlier versions. */
const wordsOf = (sample) => sample.words ?? data.prompts[sample.prompt];

/** What the model read before the completion, with the template of a chat. */
function promptOf(sample) {
  const before = sample.prompt_left_out ? [element("span", { class: "mark" }, `${sample.prompt_left_out} tokens before this are not kept … `)] : [];
  return element("span", { class: "prompt" }, ...before, visible(data.prompts[sample.prompt]));
}

/** The tokens of a completion as buttons, coloured by a signal, with a line for the numbers of one token. */
function tokenList(sample, lens, most, prompt) {
  const [label, , signed] = lenses[lens] ?? ["", "", false];
  const values = sample[lens] ?? [];
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const say = (index) => {
    const facts = [["log-probability", sample.logp], ["of the teacher", sample.teacher], ["divergence", sample.divergence], ["entropy", sample.entropy], ["weight", sample.weight], ["signal", sample.signal], ["advantage", sample.advantage]];
    const shown = facts.filter(([, numbers]) => numbers?.[index] !== null && numbers?.[index] !== undefined);
    readout.replaceChildren(element("b", {}, `token ${index}`), ...shown.map(([fact, numbers]) => `  ·  ${fact} ${figure(numbers[index])}`), sample.selected?.[index] === false ? "  ·  not selected" : "");
  };
  const list = element("div", { class: "tokens", role: "toolbar", "aria-label": "The tokens of the completion; arrow keys go from one to the next" });
  if (prompt) list.append(sample.words ? element("span", { class: "prompt" }, visible(sample.words), "\n") : promptOf(sample));
  sample.text.forEach((text, index) => {
    const end = index + 1 === sample.length;
    const shown = text === "" ? element("span", { class: "mark" }, end ? "■" : "·") : visible(text);
    const button = element("button", {
      type: "button", class: sample.selected?.[index] === false ? "out" : null,
      "aria-label": `${text === "" ? (end ? "end" : "part of a character") : visible(text)}${label ? `, ${label} ${figure(values[index])}` : ""}`,
      on: { pointerenter: () => say(index), focus: () => say(index) },
    }, shown);
    button.style.background = paint(values[index], most, signed);
    list.append(button);
  });
  if (sample.length > sample.text.length) list.append(element("span", { class: "mark" }, ` and ${sample.length - sample.text.length} more`));
  if (sample.text.length) roving(list, "button");
  return [list, readout];
}

const rewardText = (sample) => (sample.reward === null ? "–" : figure(sample.reward));

function tokens(stage) {
  if (!stage.samples.length) return null;
  const box = element("figure", { "data-chart": "tokens" });
  const name = (sample) => `step ${sample.step}, ${visible(sample.domain)}, ${sample.sample + 1}${sample.reward === null ? "" : `, reward ${figure(sample.reward)}`}`;
  const which = element("select", { "aria-label": "Sample" }, ...stage.samples.map((sample, index) => element("option", { value: index }, name(sample))));
  const all = lensesOf(stage.samples);
  const lens = element("select", { "aria-label": "Coloured by" }, ...all.map((one) => element("option", { value: one }, `by ${lenses[one][0]}`)));
  const body = element("div");
  box.append(caption("Tokens with the signals of the objective", stage, which, lens), body);
  const draw = () => {
    body.replaceChildren();
    const sample = stage.samples[Number(which.value)];
    const most = largest(stage.samples, lens.value);
    const [list, readout] = tokenList(sample, lens.value, most, true);
    const teacher = sample.teacher_name ? `, scored by ${visible(sample.teacher_name)}` : "";
    body.append(
      element("p", { class: "legend" }, ...lensLegend(lens.value, most), `  ·  seed ${sample.seed}${teacher}`),
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
  // Begins with the sample that has the largest values.
  const much = (sample) => d3.mean(sample[all[0]] ?? [], (value) => Math.abs(value ?? 0)) ?? 0;
  which.value = String(d3.maxIndex(stage.samples, much));
  return [box, draw];
}

/** The number of rows that are added to the table at a time. */
const pageOfSamples = 25;

/** A table of all samples with filters; below it, the completions of one prompt. */
function sampleTable(box) {
  // Distillation first: it is the purpose of most runs.
  const inOrder = d3.sort(data.stages, (stage) => stage.kind !== "distill");
  const all = inOrder.flatMap((stage) => stage.samples.map((sample) => ({ stage, sample })));
  const stageName = (stage) => (data.runs.length > 1 ? `${data.runs[stage.run]}: ` : "") + visible(stage.name);
  const ofPrompt = d3.group(all, ({ sample }) => sample.prompt);
  const distinct = (values) => [...new Set(values)];
  const select = (label, first, options) => {
    const made = element("select", {}, element("option", { value: "" }, first), ...options.map(([value, text]) => element("option", { value }, text)));
    return [made, element("label", {}, `${label} `, made)];
  };
  const stages = data.stages.filter((stage) => stage.samples.length);
  const [stage, stageLabel] = select("Stage", "all", stages.map((one) => [one.id, stageName(one)]));
  const [domain, domainLabel] = select("Domain", "all", distinct(all.map(({ sample }) => sample.domain)).map((one) => [one, visible(one)]));
  const [step, stepLabel] = select("Step", "all", d3.sort(distinct(all.map(({ sample }) => sample.step))).map((one) => [one, one]));
  const rewards = { right: ["1", (reward) => reward === 1], partial: ["between 0 and 1", (reward) => reward > 0 && reward < 1], wrong: ["0", (reward) => reward === 0], absent: ["none given", (reward) => reward === null], other: ["below 0 or above 1", (reward) => reward < 0 || reward > 1] };
  const present = Object.keys(rewards).filter((kind) => all.some(({ sample }) => rewards[kind][1](sample.reward)));
  const [reward, rewardLabel] = select("Reward", "any", present.map((kind) => [kind, rewards[kind][0]]));
  const words = element("input", { type: "search", size: "14" });
  const count = element("span", { class: "legend", "aria-live": "polite" });
  const head = element("tr", {}, ...["stage", "step", "domain", "reward", "tokens", "prompt", "completion", "of its prompt"].map((name) => element("th", { scope: "col" }, name)));
  const body = element("tbody");
  const wide = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Samples, the table" }, element("table", { class: "samples" }, element("thead", {}, head), body));
  const more = element("button", { type: "button", class: "plain" });
  const aside = element("div");
  box.append(element("div", { class: "controls" }, stageLabel, domainLabel, stepLabel, rewardLabel, element("label", {}, "Text ", words), count), wide, more, aside);

  const short = (text, end) => {
    const flat = visible(text).replace(/↵?\n/g, "↵");
    if (flat.length <= 44) return flat;
    return end ? `…${flat.slice(-43)}` : `${flat.slice(0, 43)}…`;
  };
  const completion = ({ sample }) => sample.text.join("");
  let found = [];
  let shown = 0;
  const extend = () => {
    for (const entry of found.slice(shown, shown + pageOfSamples)) {
      const { sample } = entry;
      const others = ofPrompt.get(sample.prompt).length;
      const open = element("button", { type: "button", class: "plain", "aria-label": `${others} ▸ ${others === 1 ? "The completion" : "Completions"} of this prompt`, on: { click: () => besides(entry) } }, `${others} ▸`);
      const cells = [stageName(entry.stage), String(sample.step), visible(sample.domain), rewardText(sample), String(sample.length)];
      const texts = [short(wordsOf(sample), true), short(completion(entry), false)];
      body.append(element("tr", {}, ...cells.map((text) => element("td", {}, text)), ...texts.map((text) => element("td", { class: "quote" }, text)), element("td", {}, open)));
    }
    shown = Math.min(found.length, shown + pageOfSamples);
    more.hidden = shown === found.length;
    more.textContent = `${Math.min(pageOfSamples, found.length - shown)} more`;
    if (found.length) roving(body, "button", 1);
  };
  const filter = () => {
    const text = words.value.toLowerCase();
    found = all.filter((entry) => {
      const { sample } = entry;
      return (!stage.value || String(entry.stage.id) === stage.value) && (!domain.value || sample.domain === domain.value) && (!step.value || String(sample.step) === step.value)
        && (!reward.value || rewards[reward.value][1](sample.reward))
        && (!text || wordsOf(sample).toLowerCase().includes(text) || data.prompts[sample.prompt].toLowerCase().includes(text) || completion(entry).toLowerCase().includes(text));
    });
    shown = 0;
    body.replaceChildren();
    count.textContent = `${found.length} of ${all.length}`;
    extend();
  };
  for (const control of [stage, domain, step, reward]) control.addEventListener("change", filter);
  words.addEventListener("input", filter);
  more.addEventListener("click", extend);

  /** The completions of one prompt, by stage and step. */
  const besides = ({ sample }) => {
    const same = d3.sort(ofPrompt.get(sample.prompt), (entry) => entry.stage.id, (entry) => entry.sample.step, (entry) => entry.sample.sample);
    const samples = same.map((entry) => entry.sample);
    const known = lensesOf(samples);
    const lens = element("select", { "aria-label": "Coloured by" }, ...known.map((one) => element("option", { value: one }, `by ${lenses[one][0]}`)));
    const title = element("h3", { tabindex: "-1" }, `Completions of one prompt: ${same.length}`);
    const cards = element("div", { class: "side-by-side", tabindex: "0", role: "region", "aria-label": "Completions of one prompt, side by side" });
    const legend = element("p", { class: "legend" });
    const draw = () => {
      const most = largest(samples, lens.value);
      legend.replaceChildren(...(known.length ? lensLegend(lens.value, most) : []));
      cards.replaceChildren(...same.map((entry) => {
        const own = entry.sample;
        const facts = `step ${own.step}, reward ${rewardText(own)}, ${own.length} tokens${own.teacher_name ? `, scored by ${visible(own.teacher_name)}` : ""}`;
        const [list, readout] = tokenList(own, lens.value, most, false);
        return element("article", {}, element("h4", {}, element("a", { href: `#${entry.stage.anchor}` }, stageName(entry.stage))), element("p", { class: "legend" }, facts), list, readout);
      }));
    };
    lens.addEventListener("change", draw);
    draw();
    const read = element("div", { class: "tokens" }, promptOf(sample));
    // The marks of a template hide the words of a chat.
    const prompt = sample.words
      ? [element("div", { class: "tokens" }, element("span", { class: "prompt" }, visible(sample.words))), element("details", {}, element("summary", {}, "As the model read it"), read)]
      : [read];
    const said = sample.words ? "The user’s words:" : "The prompt as the model read it:";
    aside.replaceChildren(title, element("p", { class: "legend" }, `${visible(sample.domain)}, seed ${sample.seed}. ${said}`), ...prompt, element("div", { class: "controls" }, known.length ? lens : null, legend), cards);
    title.focus();
  };
  filter();
}
