// What a snippet writes before anything is changed in it is a program, or a part of one.

const assert = require("node:assert/strict");
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");

const { expansion } = require("./expansion");
const snippets = require("../snippets/mopd.json");

const mopd = process.env.MOPD_BIN;
assert.ok(mopd, "MOPD_BIN must name the mopd program that the snippets are checked with");

/** Snippets that stand inside something, and in what. */
const AROUND = {
  "Term with settings of its own": (text) => `objective o {\n${text}\n}\n`,
  Choice: (text) => `objective o {\n  let a = ${text}\n}\n`,
};

/** These one after the other are an experiment. */
const PROGRAM = [
  "Import",
  "Experiment",
  "Domain",
  "Model from random weights",
  "Fine-tuning",
  "Specialists",
  "Teachers and their route",
  "Distillation",
  "Comparison",
];

/** Recipes that check clean beside that experiment. */
const BESIDE = ["Objective by the sampled token", "Objective by a divergence", "Stage", "Function"];

function diagnostics(text) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mopd-snippets-"));
  try {
    const file = path.join(folder, "snippet.mopd");
    fs.writeFileSync(file, text);
    const run = spawnSync(mopd, ["check", "--format", "json", file], { encoding: "utf8" });
    assert.ok(run.stdout, `${mopd} check answered nothing: ${run.error ?? run.stderr}`);
    return JSON.parse(run.stdout);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

for (const [name, { body }] of Object.entries(snippets)) {
  test(`${name}: parses`, () => {
    const text = (AROUND[name] ?? ((inner) => `${inner}\n`))(expansion(body));
    const wrong = diagnostics(text).filter((diagnostic) => ["syntax", "foreign-syntax"].includes(diagnostic.code));
    assert.deepEqual(wrong, [], text);
  });
}

test("the snippets of an experiment, one after the other, are an experiment", () => {
  const text = [...PROGRAM, ...BESIDE]
    .map((name) => expansion(snippets[name].body).replace(/objective name/, `objective o${BESIDE.indexOf(name)}`))
    .join("\n\n");
  const errors = diagnostics(`${text}\n`).filter((diagnostic) => diagnostic.severity === "error");
  assert.deepEqual(errors.map((diagnostic) => `${diagnostic.range.start.line + 1}: ${diagnostic.message}`), [], text);
});

test("every snippet has a word of its own to begin with, and says what it is", () => {
  const prefixes = Object.values(snippets).map((snippet) => snippet.prefix);
  assert.equal(new Set(prefixes).size, prefixes.length);
  for (const snippet of Object.values(snippets)) assert.ok(snippet.description);
});
