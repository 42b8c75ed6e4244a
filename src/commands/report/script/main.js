// Puts the charts into the page, and redraws them for another width and for printing.

let drawn = [];
function show(stage) {
  const into = document.getElementById("stage-charts");
  into.replaceChildren();
  document.getElementById("stage").value = String(stage.id);
  const seeds = stage.seeds.length > 1 ? `, mean of ${stage.seeds.length} seeds, shaded from the lowest to the highest` : "";
  const bins = stage.whole ? "" : `; each point is a mean over ${Math.round(stage.steps / stage.at.length)} steps`;
  document.getElementById("stage-facts").textContent = `${stage.kind}, ${stage.steps} steps${seeds}${bins}`;
  const [first, ...last] = [learning, weights, tokens].map((make) => make(stage));
  const half = [divergence(stage), shares(stage, "domain", stage.domains), shares(stage, "teacher", stage.teachers)].filter(Boolean);
  if (first) into.append(first[0]);
  for (let at = 0; at < half.length; at += 2) into.append(element("div", { class: "pair" }, ...half.slice(at, at + 2).map(([box]) => box)));
  for (const made of last) if (made) into.append(made[0]);
  // Drawn after they are in the page, because only then is their width known.
  drawn = [first, ...half, ...last].filter(Boolean).map(([, draw]) => draw);
  for (const draw of drawn) draw();
  if (stage.left_out) into.append(element("p", { class: "note" }, `${stage.left_out} of this stage are left out to keep the page small; they are in the run’s folder.`));
}

const redraw = [];
for (const box of document.querySelectorAll("figure[data-chart=scores]")) redraw.push(scores(box));
for (const box of document.querySelectorAll("[data-reference]")) references(box);
for (const box of document.querySelectorAll("#sample-table")) sampleTable(box);
const openAnswers = [...document.querySelectorAll("#answer-table")].map(answerTable)[0];
for (const table of document.querySelectorAll("table.scores")) {
  const columns = table.querySelectorAll("tbody tr:first-child a").length;
  roving(table, "tbody a", columns);
}
for (const box of document.querySelectorAll("figure[data-chart=graph]")) graph(box);
for (const box of document.querySelectorAll("figure[data-chart=cost]")) redraw.push(cost(box));
for (const box of document.querySelectorAll("figure[data-chart=overlay]")) redraw.push(overlay(box));
for (const draw of redraw) draw?.();

/** Opens the stage that a link leads to. */
function unfold() {
  const stage = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details.stage");
  if (!stage || stage.open) return;
  stage.open = true;
  stage.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();

/** Opens the completions of the cell that a link leads to. */
function answersFromAddress() {
  const match = /^#answers-(\d+)-(\d+)-(\d+)$/.exec(location.hash);
  if (match) openAnswers?.(...match.slice(1).map(Number));
}
addEventListener("hashchange", answersFromAddress);
// Again, where the address stays the same.
for (const link of document.querySelectorAll("a[href^='#answers-']")) link.addEventListener("click", () => link.hash === location.hash && answersFromAddress());
answersFromAddress();

function fromAddress() {
  const match = /^#train-(\d+)$/.exec(location.hash);
  const stage = match && trained.find((one) => one.id === Number(match[1]));
  if (!stage) return false;
  show(stage);
  document.getElementById("training").scrollIntoView();
  return true;
}
const picker = document.getElementById("stage");
if (picker) {
  picker.append(...trained.map((stage) => element("option", { value: stage.id }, visible(stage.name))));
  picker.addEventListener("change", () => show(trained.find((stage) => String(stage.id) === picker.value)));
  if (trained.length && !fromAddress()) show(trained.find((stage) => stage.kind === "distill") ?? trained.at(-1));
  addEventListener("hashchange", fromAddress);
}
// Redraws all charts; choices stay.
const all = () => {
  for (const draw of [...redraw, ...drawn]) draw?.();
};
let folded = [];
let waiting = null;
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(all, 150);
});
// Charts are redrawn for printing, and afterwards for the window again.
addEventListener("beforeprint", () => {
  printing = true;
  folded = [...document.querySelectorAll("details.stage:not([open]), details.folded:not([open])")];
  for (const stage of folded) stage.open = true;
  all();
});
addEventListener("afterprint", () => {
  printing = false;
  for (const stage of folded) stage.open = false;
  all();
});
document.documentElement.dataset.drawn = "yes";
