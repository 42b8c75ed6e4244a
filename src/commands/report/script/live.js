// A run in progress: polls for new data, and draws it.

const now = document.getElementById("live");
const pause = 2000;
// The first request gets all data, including what is not in the page yet.
let version = "";
const plan = now.dataset.plan;
let waits = false;

const seconds = (value) => (value < 90 ? `${Math.round(value)} s` : value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`);
const shape = () => JSON.stringify(trained.map((stage) => [stage.id, stage.seeds, stage.domains, stage.series.map((one) => [one.metric, one.by, one.of])]));

/** A chart that is being read, or a menu that is open: then nothing is redrawn. */
const read = () => document.querySelector("#training .plot:hover, #training .plot:focus, #stage-charts :focus, #training figure details[open]:not(.choose)");

/** The controls in a box, each with its label. */
function choices(box) {
  const words = (control) => control.getAttribute("aria-label") ?? [...(control.closest("label")?.childNodes ?? [])].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.textContent).join("");
  return [...box.querySelectorAll("select, input")].map((control) => [words(control), control]);
}

function charts() {
  const section = document.getElementById("training");
  section.hidden = !trained.length;
  if (!trained.length) return;
  const before = section.querySelector("figure[data-chart=overlay]");
  const made = element("figure", { "data-chart": "overlay" });
  const kept = new Map(before ? choices(before).map(([words, control]) => [words, control]) : []);
  const open = before?.querySelector("details.choose")?.open;
  if (before) before.replaceWith(made);
  else section.querySelector("h3").before(made);
  overlayDraw = overlay(made);
  for (const [words, control] of choices(made)) {
    const old = kept.get(words);
    if (!old) continue;
    if (control.type === "checkbox") control.checked = old.checked;
    else control.value = old.value;
    if (control.tagName === "SELECT" && control.selectedIndex < 0) control.selectedIndex = 0;
  }
  if (open) made.querySelector("details.choose").open = true;
  overlayDraw?.();
  const chosen = Number(picker.value);
  picker.replaceChildren(...trained.map((stage) => element("option", { value: stage.id }, visible(stage.name))));
  show(trained.find((stage) => stage.id === chosen) ?? trained.at(-1));
}
let overlayDraw = null;
let drawnShape = "";

function draw() {
  waits = Boolean(read());
  document.getElementById("live-waits").hidden = !waits;
  if (waits) return;
  trained = data.stages.filter((stage) => stage.at.length);
  if (shape() !== drawnShape) charts();
  else {
    overlayDraw?.();
    const chosen = trained.find((stage) => String(stage.id) === document.getElementById("stage").value);
    if (chosen) show(chosen);
  }
  drawnShape = shape();
}

/** Shows the state of the run, as text and progress bars. */
function say({ running, status }) {
  const done = `${status.done} of ${status.tasks || "?"} stages done`;
  const text = running ? `Running: ${done}.`
    : status.ended ? `Ended early: ${status.ended.replace(/\.$/, "")}; ${done}. The same command goes on with it.`
      : `No command writes to this run now; ${done}. The same command goes on with it.`;
  const line = document.getElementById("live-status");
  if (line.textContent !== text) line.textContent = text;
  const several = new Set(status.at_work.map((one) => one.seed)).size > 1 || data.stages.some((stage) => stage.seeds.length > 1);
  const row = (one) => {
    const name = visible(one.stage) + (several ? ` (seed ${one.seed})` : "");
    const bar = one.steps ? element("progress", { max: one.steps, value: one.step, "aria-label": `${name}, steps` }) : "";
    const left = one.seconds && running ? seconds((one.steps - one.step) * one.seconds) : "–";
    return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, bar), element("td", {}, one.steps ? `${one.step} of ${one.steps}` : "–"),
      element("td", {}, one.seconds ? figure(1 / one.seconds) : "–"), element("td", {}, left), element("td", {}, one.value === null ? "–" : `${visible(one.metric)} ${figure(one.value)}`));
  };
  const table = (head, rows) => element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": head[0] }, element("table", { class: "costs" },
    element("thead", {}, element("tr", {}, ...head.slice(1).map((cell) => element("th", { scope: "col" }, cell)))), element("tbody", {}, ...rows)));
  document.getElementById("live-stages").replaceChildren(...(status.at_work.length
    ? [table(["Stages at work", "stage", "", "step", "steps/s", "left", "last"], status.at_work.map(row))] : []));
  const names = [...new Set(status.scores.flatMap((one) => one.tables))];
  // Two tables may sample the same model in different ways.
  const evaluated = (name) => {
    const scores = status.scores.filter((one) => one.tables.includes(name));
    const [domains, models] = ["domain", "model"].map((key) => [...new Set(scores.map((one) => one[key]))]);
    const mean = (model, domain) => d3.mean(scores.filter((one) => one.model === model && one.domain === domain), (one) => one.score);
    const head = names.length > 1 ? name : "model";
    return table([`Evaluated so far, ${name}`, head, ...domains.map(visible)], models.map((model) => element("tr", {}, element("th", { scope: "row" }, visible(model)), ...domains.map((domain) => element("td", {}, figure(mean(model, domain)))))));
  };
  document.getElementById("live-scores").replaceChildren(...(names.length
    ? [element("h3", {}, "Evaluated so far"), element("p", { class: "legend" }, "Means over the prompts and seeds that are done; the tables with their intervals come at the end."),
      ...names.map(evaluated)] : []));
  document.getElementById("live-warnings").replaceChildren(...status.warnings.map((warning) => element("p", { class: "note" }, `Warning: ${warning}`)));
}

async function ask() {
  const began = performance.now();
  let next = pause;
  try {
    const answer = await fetch(`state?since=${encodeURIComponent(version)}`, { cache: "no-store" });
    if (answer.status === 200) {
      const news = await answer.json();
      if (news.finished || news.plan !== plan) {
        location.reload();
        return;
      }
      version = news.version;
      for (const stage of news.stages) Object.assign(data.stages.find((known) => known.id === stage.id), stage);
      say(news);
      draw();
    } else if (answer.status === 204) {
      if (waits) draw();
    } else document.getElementById("live-status").textContent = await answer.text();
    now.dataset.answers = String(Number(now.dataset.answers ?? 0) + 1);
  } catch {
    document.getElementById("live-status").textContent = "mopd report --live does not answer any more; this is what it said last.";
    next = 5 * pause;
  }
  // Drawing a long run takes time: at least five times as long is left to the reader.
  setTimeout(ask, Math.max(next, 5 * (performance.now() - began)));
}
redraw.push(() => overlayDraw?.());
ask();
