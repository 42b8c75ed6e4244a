// What `mutations.mjs` needs: the repository's files and the parser's verdicts.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
export const root = path.resolve(here, "../../..");
const treeSitter = process.env.TREE_SITTER || path.join(here, "node_modules/.bin/tree-sitter");

const SKIPPED = new Set([".git", ".mopd", "node_modules", "target", "runs", "dist"]);

/** The files below a folder whose names end so, in order. */
export function files(folder, ending) {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !SKIPPED.has(entry.name))
    .flatMap((entry) => {
      const found = path.join(folder, entry.name);
      return entry.isDirectory() ? files(found, ending) : found.endsWith(ending) ? [found] : [];
    })
    .sort();
}

/** Calls `use` with the paths of these texts as files, which are gone afterwards. */
export function asFiles(texts, use) {
  const folder = mkdtempSync(path.join(tmpdir(), "mopd-agreement-"));
  try {
    const paths = texts.map((text, index) => {
      const file = path.join(folder, `${index}.mopd`);
      writeFileSync(file, text);
      return file;
    });
    return use(paths);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** For each of these files, whether this grammar finds a mistake in it. */
export function refusals(paths) {
  const list = path.join(path.dirname(paths[0]), "paths");
  writeFileSync(list, paths.join("\n"));
  const answer = output(treeSitter, ["parse", "--grammar-path", here, "--quiet", "--json-summary", "--paths", list]);
  // The faulty files are named line by line before the summary.
  const summaries = JSON.parse(answer.slice(answer.search(/^\{/m))).parse_summaries;
  const verdicts = new Map(summaries.map((summary) => [summary.file, !summary.successful]));
  return paths.map((file) => {
    if (!verdicts.has(file)) throw new Error(`${file} was not parsed`);
    return verdicts.get(file);
  });
}

/** What a program prints; a mistake in a file makes its status 1. */
export function output(program, words) {
  try {
    return execFileSync(program, words, { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "pipe"] });
  } catch (failure) {
    if (failure.status === 1 && failure.stdout) return failure.stdout;
    throw failure;
  }
}

/** A text, indented for a report. */
export const indented = (text) => text.trimEnd().replace(/^/gm, "    ");
