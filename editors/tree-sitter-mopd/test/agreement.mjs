// Where the compiler finds a syntax error this grammar must find one, and nowhere else.
//
// Asked of every `.mopd` file of the repository, which the compiler accepts, and of every program of the book and of the language
// suite, piece by piece: a piece runs from one item at the left margin to the next. What the compiler says of a piece stands in its
// comments (`// error: [syntax] ...`), and the suite proves that the compiler says so.

import { readFileSync } from "node:fs";
import path from "node:path";

import { asFiles, files, indented, refusals, root } from "./parse.mjs";

/** Pieces on which the two disagree, by one line of them, and why. */
const EXCEPTIONS = new Map([
  ["let b = True", "a name like any other to the grammar; the compiler knows the habit"],
  ["let c = None", "a name like any other to the grammar; the compiler knows the habit"],
  ["let d = 1e999", "the number's size is judged by the compiler: its shape is sound"],
  ["// \u202ereversed", "what a comment holds is judged by the compiler"],
  ['experiment "a" { seed = 1, out = "runs/\u202ea" }', "what a text holds is judged by the compiler"],
]);

/** The programs of a page: `{ place, lines }`. */
function fences(page) {
  const found = [];
  let open;
  for (const [index, line] of readFileSync(page, "utf8").split("\n").entries()) {
    if (open && line.startsWith("```")) {
      found.push(open);
      open = undefined;
    } else if (open) {
      open.lines.push(line);
    } else if (/^```mopd( |$)/.test(line)) {
      // What the page of a code shows as wrong is wrong as a whole.
      const wrong = line === "```mopd before" && /(foreign-)?syntax\.md$/.test(page);
      open = { page: path.relative(root, page), first: index + 2, lines: [], wrong };
    } else if (line.startsWith("```")) {
      open = { lines: [], page: undefined };
    }
  }
  return found.filter((fence) => fence.page);
}

/** For each line, whether the compiler is said to find a syntax error in it. */
function refused(lines) {
  const found = lines.map(() => false);
  let waiting = false;
  for (const [index, line] of lines.entries()) {
    const mark = line.search(/\/\/ (error|warning|advice):/);
    const says = mark >= 0 && /\/\/ error:[^[]*\[(foreign-)?syntax\]/.test(line.slice(mark));
    if (mark >= 0 && line.slice(0, mark).trim() === "") {
      waiting ||= says;
    } else {
      found[index] = says || waiting;
      waiting = false;
    }
  }
  return found;
}

/** The pieces of a program. What is indented, a closing bracket, a `{` and a comment go with what is before them. */
function pieces({ page, first, lines, wrong }) {
  if (wrong) return [{ place: `${page}:${first}`, lines, refused: true }];
  const marks = refused(lines);
  const found = [];
  for (const [index, line] of lines.entries()) {
    if (found.length === 0 || /^[^\s)}\]{/]/.test(line)) {
      found.push({ place: `${page}:${first + index}`, lines: [], refused: false });
    }
    const piece = found.at(-1);
    piece.lines.push(line);
    piece.refused ||= marks[index];
  }
  return found;
}

const sources = files(root, ".mopd").map((file) => ({
  place: path.relative(root, file),
  lines: readFileSync(file, "utf8").split("\n"),
  refused: false,
}));
const pages = [path.join(root, "README.md"), ...["book/src", "tests/suite", "lang/codes"].flatMap((name) => files(path.join(root, name), ".md"))];
const cases = [...sources, ...pages.flatMap(fences).flatMap(pieces)];
const verdicts = asFiles(cases.map((piece) => piece.lines.join("\n") + "\n"), refusals);
let faults = 0;
const used = new Set();
for (const [index, piece] of cases.entries()) {
  if (verdicts[index] === piece.refused) continue;
  const exception = [...EXCEPTIONS.keys()].find((text) => piece.lines.some((line) => line.trimStart().startsWith(text)));
  if (exception) {
    used.add(exception);
    continue;
  }
  faults += 1;
  console.error(`${piece.place}: ${piece.refused ? "the compiler refuses this, the grammar does not" : "a syntax error that is none"}`);
  console.error(indented(piece.lines.join("\n")));
}

for (const text of EXCEPTIONS.keys()) {
  if (!used.has(text)) {
    faults += 1;
    console.error(`the exception \`${text}\` excuses nothing any more`);
  }
}
const wrong = cases.filter((piece) => piece.refused).length;
if (sources.length < 10 || wrong < 50) throw new Error(`only ${sources.length} files and ${wrong} pieces with a syntax error were found`);
console.log(
  `${sources.length} files, ${cases.length - sources.length} pieces of pages, ${wrong} of them with a syntax error: ` +
    (faults === 0 ? `agreed, ${used.size} exceptions` : `${faults} disagreements`),
);
process.exitCode = faults === 0 ? 0 : 1;
