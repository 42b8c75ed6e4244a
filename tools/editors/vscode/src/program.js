// Where the `mopd` program is. No part of VS Code is needed here.

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

/** What Windows tries after a name without an ending. */
const WINDOWS_ENDINGS = [".exe", ".cmd", ".bat"];

/**
 * Looks a program up as a shell would.
 *
 * @param {string} written the setting `mopd.path`: a name or a path; `~` is the home folder
 * @param {{ env?: NodeJS.ProcessEnv, home?: string, platform?: string, folder?: string }} [place] what to look in; `folder` is
 *   what a relative path starts from
 * @returns {string | undefined} the full path, if there is such a program
 */
function find(written, place = {}) {
  const { env = process.env, home = os.homedir(), platform = process.platform, folder } = place;
  const windows = platform === "win32";
  let name = written.trim() || "mopd";
  if (name === "~" || name.startsWith("~/") || (windows && name.startsWith("~\\"))) name = path.join(home, name.slice(1));
  const endings = windows && !path.extname(name) ? WINDOWS_ENDINGS : [""];
  const isPath = name.includes("/") || (windows && name.includes("\\"));
  const searched = windows ? env.Path || env.PATH || "" : env.PATH || "";
  const folders = isPath ? [folder || ""] : searched.split(windows ? ";" : ":").filter(Boolean);
  for (const where of folders) {
    for (const ending of endings) {
      const candidate = path.resolve(where, name + ending);
      if (isProgram(candidate, windows)) return candidate;
    }
  }
  return undefined;
}

function isProgram(file, windows) {
  try {
    if (!fs.statSync(file).isFile()) return false;
    if (!windows) fs.accessSync(file, fs.constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * What a person is told when there is no such program.
 *
 * @param {string} written the setting `mopd.path`
 */
function notFound(written) {
  const name = written.trim() || "mopd";
  const cause = /[/\\]/.test(name)
    ? `\`${name}\`, which the setting \`mopd.path\` names, is not a program that can be run.`
    : `There is no program \`${name}\` on the PATH that VS Code was started with.`;
  return `${cause} Choose the program, or put it on the PATH and start VS Code again. Colours and snippets work without it.`;
}

module.exports = { find, notFound };
