// What the manifest promises is there.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const test = require("node:test");

const root = path.dirname(__dirname);
const manifest = require("../package.json");

test("every file that the manifest names exists and is read", () => {
  const { languages, grammars, snippets } = manifest.contributes;
  const named = [...languages.map((language) => language.configuration), ...grammars.map((g) => g.path), ...snippets.map((s) => s.path)];
  for (const name of named) JSON.parse(fs.readFileSync(path.join(root, name), "utf8"));
});

test("a new line after a documentation comment begins with `///`, and no other does", () => {
  const { onEnterRules, indentationRules } = require("../language-configuration.json");
  const continued = (line) => onEnterRules.find((rule) => new RegExp(rule.beforeText).test(line) && rule.action.appendText)?.action.appendText;
  assert.equal(continued("/// What it is."), "/// ");
  assert.equal(continued("  ///"), "/// ");
  assert.equal(continued("//! The file."), "//! ");
  assert.equal(continued("// a comment"), undefined);
  assert.equal(continued("//// a comment"), undefined);
  assert.equal(continued("let a = 1 /// no documentation"), undefined);

  const next = new RegExp(indentationRules.indentNextLinePattern);
  for (const line of ["let a = 1 +", "fn half(x) =", "  term all = live // more", "  for d in domains:"]) assert.match(line, next);
  for (const line of ["let a = 1", "// ends in +", "let operand"]) assert.doesNotMatch(line, next);
  const more = new RegExp(indentationRules.increaseIndentPattern);
  for (const line of ["domain d {", "let a = f(", "let a = [ // note"]) assert.match(line, more);
  for (const line of ["domain d { }", "// {"]) assert.doesNotMatch(line, more);
});
