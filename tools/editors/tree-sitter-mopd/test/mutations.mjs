// Programs with a mistake at random: this grammar finds one exactly where the compiler does.
//
// MOPD_BIN names the compiler. `node test/mutations.mjs [COUNT] [SEED]`; the same seed makes the same mistakes in the same files.

import { readFileSync } from "node:fs";
import path from "node:path";

import { asFiles, files, indented, output, refusals, root } from "./parse.mjs";

const mopd = process.env.MOPD_BIN;
if (!mopd) throw new Error("MOPD_BIN must name the mopd program to agree with");
const count = Number(process.argv[2] ?? 1000);
const seed = Number(process.argv[3] ?? 1);

/** Diagnostics that the compiler makes of a text whose shape is sound. */
const JUDGED_LATER = /is too large for a number/;

/** After the word `where` the compiler goes on to the next line, for the function too; here only for what stands behind a value. */
const GOES_ON = /\bwhere[ \t]*\n\s*\(/;

const TOKEN = /"(?:\\.|[^"\\\n])*"|[A-Za-z_]\w*|\d[\w.]*%?|\|\||->|\|>|[=!<>]=|\.\.=|\n[ \t]*|[ \t]+|[^]/g;
const PIECES = ["live ", "not ", " -", " + ", ".x", "(x)", "[x]", " { a = 1 }", " @unpublished", ", ", " then x", " -> x", " < 2", "1_0", " 5 steps ", "..=", " where a = 1", " by domain { a = 1 }"];

/** Numbers below a bound, from a linear congruential generator modulo 2^32 (Numerical Recipes). */
let state = seed >>> 0;
function below(bound) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * bound);
}
const one = (list) => list[below(list.length)];

/** Items without their comments: a mistake in a comment is none. */
const sources = ["stdlib", "examples", "editors"].flatMap((folder) => files(path.join(root, folder), ".mopd"));
const items = sources.flatMap((file) => {
  const lines = readFileSync(file, "utf8").split("\n");
  const text = lines.filter((line) => !/^\s*\/\//.test(line)).map((line) => line.replace(/ \/\/ .*$/, ""));
  return text.join("\n").split(/\n(?=[^\s})\]\n])/).filter((item) => item.trim() !== "");
});

function mutated(item) {
  const tokens = item.match(TOKEN);
  for (let left = below(4) === 0 ? 2 : 1; left > 0 && tokens.length > 1; left -= 1) {
    const at = below(tokens.length);
    const other = below(tokens.length);
    const changes = [
      () => tokens.splice(at, 1),
      () => tokens.splice(at, 0, tokens[other]),
      () => tokens.splice(at, 0, "\n"),
      () => (tokens[at] = one(one(items).match(TOKEN))),
      () => ([tokens[at], tokens[other]] = [tokens[other], tokens[at]]),
      () => tokens.splice(at, 0, one(PIECES)),
    ];
    one(changes)();
  }
  return `${tokens.join("")}\n`;
}

const texts = Array.from({ length: count }, () => mutated(one(items)));
let faults = 0;
let wrong = 0;
asFiles(texts, (paths) => {
  const found = JSON.parse(output(mopd, ["check", "--format", "json", ...paths]));
  const verdicts = refusals(paths);
  for (const [index, file] of paths.entries()) {
    const diagnostics = found.filter((diagnostic) => diagnostic.file === file);
    const syntax = diagnostics.filter((diagnostic) => /^(foreign-)?syntax$/.test(diagnostic.code) && !JUDGED_LATER.test(diagnostic.message));
    wrong += verdicts[index];
    if (verdicts[index] === syntax.length > 0 || GOES_ON.test(texts[index])) continue;
    faults += 1;
    console.error(syntax.length > 0 ? `the compiler refuses this, the grammar does not: ${syntax[0].message}` : "a syntax error that is none");
    console.error(indented(texts[index]));
  }
});
if (wrong < count / 4) throw new Error(`only ${wrong} of ${count} changes were mistakes`);
console.log(`${count} changed items, ${wrong} of them refused (seed ${seed}): ${faults === 0 ? "agreed" : `${faults} disagreements`}`);
process.exitCode = faults === 0 ? 0 : 1;
