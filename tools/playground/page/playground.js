"use strict";
// The page around the program: sends it requests, and shows its responses.

/** The few system calls that the program makes: it reads its request and writes its response. */
function system(question) {
  const input = new TextEncoder().encode(question);
  const written = [];
  let read = 0;
  let memory;
  const view = () => new DataView(memory.buffer);
  const parts = (list, count) => Array.from({ length: count }, (_, at) => [view().getUint32(list + 8 * at, true), view().getUint32(list + 8 * at + 4, true)]);
  const done = 0;
  const absent = 8;
  const calls = {
    fd_read(file, list, count, size) {
      let taken = 0;
      for (const [at, room] of parts(list, count)) {
        const piece = file === 0 ? input.subarray(read, read + room) : new Uint8Array();
        new Uint8Array(memory.buffer).set(piece, at);
        read += piece.length;
        taken += piece.length;
      }
      view().setUint32(size, taken, true);
      return done;
    },
    fd_write(file, list, count, size) {
      let taken = 0;
      for (const [at, length] of parts(list, count)) {
        if (file === 1) written.push(new Uint8Array(memory.buffer).slice(at, at + length));
        else if (length) console.error(new TextDecoder().decode(new Uint8Array(memory.buffer, at, length)));
        taken += length;
      }
      view().setUint32(size, taken, true);
      return done;
    },
    environ_sizes_get(count, size) {
      view().setUint32(count, 0, true);
      view().setUint32(size, 0, true);
      return done;
    },
    environ_get: () => done,
    args_sizes_get: (count, size) => calls.environ_sizes_get(count, size),
    args_get: () => done,
    clock_time_get(_kind, _precision, at) {
      view().setBigUint64(at, BigInt(Math.round(performance.now() * 1e6)), true);
      return done;
    },
    random_get(at, size) {
      crypto.getRandomValues(new Uint8Array(memory.buffer, at, size));
      return done;
    },
    fd_prestat_get: () => absent,
    proc_exit(status) {
      throw new Error(`the program ended with status ${status}`);
    },
    sched_yield: () => done,
  };
  // Other calls are not needed; they return an error.
  const imports = new Proxy(calls, { get: (known, name) => known[name] ?? (() => absent), has: () => true });
  return {
    imports,
    begin: (instance) => (memory = instance.exports.memory),
    written,
  };
}

const program = WebAssembly.compile(Uint8Array.from(atob(document.getElementById("program").textContent.trim()), (c) => c.charCodeAt(0)));

async function ask(question) {
  const module = await program;
  const own = system(JSON.stringify(question));
  const names = WebAssembly.Module.imports(module).filter(({ kind }) => kind === "function");
  const imports = {};
  for (const { module: from, name } of names) (imports[from] ??= {})[name] = own.imports[name];
  const instance = await WebAssembly.instantiate(module, imports);
  own.begin(instance);
  instance.exports._start();
  const text = await new Blob(own.written).text();
  return JSON.parse(text);
}

const at = (id) => document.getElementById(id);
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

let latest = 0;
let formatted = null;

async function check() {
  const turn = ++latest;
  const text = at("text").value;
  const began = performance.now();
  let answer;
  try {
    answer = await ask({ ask: "check", text });
  } catch (problem) {
    at("state").textContent = `A bug in mopd: ${problem.message}`;
    return;
  }
  if (turn !== latest) return;
  formatted = answer.formatted;
  at("format").disabled = formatted === null || formatted === text;
  at("state").textContent = `checked in ${Math.round(performance.now() - began)} ms`;
  const line = (place) => text.slice(0, place).split("\n").length;
  const shown = (one) => element("li", { class: one.severity },
    element("b", {}, `${one.severity}[${one.code}]`), ` ${one.message} `,
    element("button", { type: "button", class: "place", on: { click: () => {
      at("text").focus();
      at("text").setSelectionRange(one.start, one.end);
    } } }, `line ${line(one.start)}`),
    one.label ? element("div", {}, one.label) : null,
    one.help ? element("div", { class: "soft" }, `help: ${one.help}`) : null,
    element("details", {}, element("summary", { class: "soft" }, "why"), element("pre", {}, one.page)));
  at("found").replaceChildren(answer.diagnostics.length ? element("ul", {}, ...answer.diagnostics.map(shown)) : element("p", {}, "Nothing is wrong."));
  const row = (name, value) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value));
  const described = (one) => {
    const follows = one.audit.flatMap(([term, lines]) => lines.map((text, place) => row(place ? "…" : term, text)));
    if (one.whole) follows.push(row("together", one.whole));
    const slots = Object.entries(one.normal_form).filter(([, value]) => typeof value === "string").map(([name, value]) => row(name.replaceAll("_", " "), value));
    return element("div", {}, element("h3", {}, one.name, one.models.length ? element("span", { class: "soft" }, `: trains ${one.models.join(", ")}`) : ""),
      element("p", { class: "soft" }, "What the gradient of each term follows"), element("table", {}, ...follows),
      element("details", {}, element("summary", {}, "Normal form"), element("table", {}, ...slots)));
  };
  at("objectives").replaceChildren(...(answer.objectives.length ? answer.objectives.map(described) : [element("p", { class: "soft" }, answer.diagnostics.some((one) => one.severity === "error") ? "Once the text has no errors." : "The text has none.")]));
  const chosen = at("objective").value;
  const names = [...new Set(answer.objectives.map((one) => one.models[0] ?? one.name))];
  at("objective").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  at("objective").value = names.includes(chosen) ? chosen : (names.at(-1) ?? "");
  for (const id of ["try", "example"]) at(id).disabled = !names.length;
  document.documentElement.dataset.checked = String(turn);
}

async function example() {
  const answer = await ask({ ask: "try", text: at("text").value, objective: at("objective").value });
  if (answer.problem) at("tried").replaceChildren(element("p", { class: "error" }, element("b", {}, "error"), ` ${answer.problem}`));
  else at("numbers").value = JSON.stringify(answer, (_, value) => (Array.isArray(value) && value.every((one) => typeof one !== "object") ? `[${value.map((one) => JSON.stringify(one)).join(", ")}]` : value), 2).replace(/"(\[.*?\])"(?=[,\n])/g, (_, list) => list.replaceAll('\\"', '"'));
}

async function evaluate() {
  let answer;
  try {
    if (!at("numbers").value.trim()) await example();
    answer = await ask({ ask: "try", text: at("text").value, objective: at("objective").value, numbers: JSON.parse(at("numbers").value) });
  } catch (problem) {
    answer = { problem: problem instanceof SyntaxError ? `the numbers are no JSON: ${problem.message}` : problem.message };
  }
  if (answer.problem) {
    at("tried").replaceChildren(element("p", { class: "error" }, element("b", {}, "error"), ` ${answer.problem}`));
    return;
  }
  const figure = (value) => (typeof value === "number" ? Number(value.toPrecision(6)).toString() : "–");
  const columns = [
    ...answer.parts.filter((part) => part.axis === "token").map((part) => [part.name, part.f64]),
    ...answer.gradients.map((part) => [`d loss / d ${part.name}`, part.f64]),
  ];
  const head = element("tr", {}, ...["prompt", "completion", "token", ...columns.map(([name]) => name)].map((name) => element("th", { scope: "col" }, name)));
  const rows = answer.places.map((place, token) => element("tr", {}, ...[...Object.values(place).slice(0, 3), ...columns.map(([, values]) => values[token])].map((value) => element("td", { class: "number" }, figure(value)))));
  const coarser = answer.parts.filter((part) => part.axis !== "token").map((part) => element("p", {}, element("code", {}, part.name), ` = ${part.f64.map(figure).join(", ")}`));
  at("tried").replaceChildren(element("p", {}, "loss = ", element("b", { id: "loss" }, figure(answer.loss))), ...coarser,
    element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "By token" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
}

let waiting = null;
at("text").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(check, 250);
});
at("format").addEventListener("click", () => {
  if (formatted === null) return;
  at("text").value = formatted;
  check();
});
at("example").addEventListener("click", example);
at("try").addEventListener("click", evaluate);
check();
