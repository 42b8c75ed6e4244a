// The completions behind the tables: those of a cell, or of two rows side by side.

/** The number of prompts that are added at a time. */
const pageOfAnswers = 25;

const isRight = (answer) => answer !== null && answer[0] >= 1;

/** Shows the completions of a chosen cell. Returns a function that opens one. */
function answerTable(box) {
  const tables = data.tables.map((table, index) => ({ table, index })).filter(({ table }) => table.answers);
  const select = (label) => {
    const made = element("select");
    return [made, element("label", {}, `${label} `, made)];
  };
  const fill = (select, options) => {
    const before = select.value;
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    if (options.some(([value]) => String(value) === before)) select.value = before;
  };
  const [table, tableLabel] = select("Table");
  const [row, rowLabel] = select("Row");
  const [beside, besideLabel] = select("Beside");
  const [domain, domainLabel] = select("Domain");
  const [which, whichLabel] = select("Show");
  const count = element("span", { class: "legend", "aria-live": "polite" });
  const title = element("h3", { tabindex: "-1" });
  const head = element("tr");
  const body = element("tbody");
  const wide = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Completions, the table" }, element("table", { class: "answers" }, element("thead", {}, head), body));
  const more = element("button", { type: "button", class: "plain" });
  box.append(element("div", { class: "controls" }, tables.length > 1 ? tableLabel : null, rowLabel, domainLabel, besideLabel, whichLabel, count), title, wide, more);
  fill(table, tables.map(({ table, index }) => [index, table.name]));

  let found = [];
  let shown = 0;
  const chosen = () => data.tables[Number(table.value)];
  const column = () => chosen().answers.columns[Number(domain.value)];
  const pair = () => [Number(row.value), ...(beside.value === "" ? [] : [Number(beside.value)])];
  const cell = (answer) => {
    if (answer === null) return element("td", {}, "–");
    const [reward, text, facts] = answer;
    const mark = element("small", { class: isRight(answer) ? "right" : "wrong" }, `reward ${figure(reward)}, ${visible(facts)}`);
    return element("td", {}, element("div", { class: "answer" }, visible(text)), mark);
  };
  const extend = () => {
    const { prompts, rows } = column();
    for (const prompt of found.slice(shown, shown + pageOfAnswers)) {
      const asked = element("th", { scope: "row" }, element("small", {}, `${prompt + 1}`), element("div", { class: "answer" }, visible(prompts[prompt])));
      body.append(element("tr", {}, asked, ...pair().map((one) => cell(rows[one][prompt]))));
    }
    shown = Math.min(found.length, shown + pageOfAnswers);
    more.hidden = shown === found.length;
    more.textContent = `${Math.min(pageOfAnswers, found.length - shown)} more`;
  };
  const draw = () => {
    const { rows, answers } = chosen();
    const { total, prompts, stages, rows: texts } = column();
    const [one, other] = pair();
    const filters = {
      all: () => true,
      wrong: (prompt) => !isRight(texts[one][prompt]) && (other === undefined || isRight(texts[other][prompt])),
      right: (prompt) => isRight(texts[one][prompt]) && (other === undefined || !isRight(texts[other][prompt])),
    };
    found = d3.range(prompts.length).filter((prompt) => pair().every((row) => texts[row][prompt] !== null) && filters[which.value](prompt));
    const names = pair().map((row) => rows[row].model);
    title.textContent = `${names.join(" and ")} on ${chosen().domains[Number(domain.value)]}, seed ${answers.seed}`;
    head.replaceChildren(element("th", { scope: "col" }, "prompt"), ...pair().map((row) => element("th", { scope: "col" }, element("a", { href: `#${stages[row]}` }, rows[row].model))));
    count.textContent = `${found.length} of ${prompts.length}${prompts.length < total ? `, the first of ${total} prompts` : ""}`;
    shown = 0;
    body.replaceChildren();
    extend();
  };
  /** The choices that the table and the row allow. */
  const offer = () => {
    const { rows, domains, answers } = chosen();
    const known = (row) => answers.columns.some((column) => column?.rows[row].some((answer) => answer !== null));
    const options = rows.map((one, index) => [index, one.model]).filter(([index]) => known(index));
    fill(row, options);
    fill(domain, domains.map((name, index) => [index, name]).filter(([index]) => answers.columns[index]));
    fill(beside, [["", "nothing"], ...options.filter(([index]) => String(index) !== row.value)]);
    const [one, other] = pair().map((index) => rows[index].model);
    fill(which, other === undefined
      ? [["all", "all"], ["wrong", "wrong ones"], ["right", "right ones"]]
      : [["all", "all"], ["wrong", `right in ${other}, wrong in ${one}`], ["right", `right in ${one}, wrong in ${other}`]]);
    draw();
  };
  for (const control of [table, row, beside, domain]) control.addEventListener("change", offer);
  which.addEventListener("change", draw);
  more.addEventListener("click", extend);
  offer();
  return (place, ofRow, ofColumn) => {
    [table, row, domain].forEach((control, index) => {
      // Options of a row and a domain are those of the table.
      control.value = String([place, ofRow, ofColumn][index]);
      if (control === table) offer();
    });
    offer();
    box.scrollIntoView();
    title.focus({ preventScroll: true });
  };
}
