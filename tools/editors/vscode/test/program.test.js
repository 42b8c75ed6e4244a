// How the extension finds the program, and what it says where there is none.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");

const { find, notFound } = require("../src/program");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mopd-program-"));
test.after(() => fs.rmSync(folder, { recursive: true }));

function file(name, mode = 0o755) {
  const written = path.join(folder, name);
  fs.mkdirSync(path.dirname(written), { recursive: true });
  fs.writeFileSync(written, "");
  fs.chmodSync(written, mode);
  return written;
}

const second = file("second/mopd");
file("first/mopd", 0o644);
const windows = file("windows/mopd.exe");
const at = (...names) => names.map((name) => path.join(folder, name)).join(":");

test("a name is looked up on the PATH, in order; what can't be run is passed over", () => {
  const env = { PATH: at("first", "none", "second") };
  assert.equal(find("mopd", { env, platform: "linux" }), second);
  assert.equal(find("  ", { env, platform: "linux" }), second);
  assert.equal(find("mopd", { env: { PATH: at("first") }, platform: "linux" }), undefined);
  assert.equal(find("mopd", { env: {}, platform: "linux" }), undefined);
});

test("a path is taken as it is, from the home folder or the open one", () => {
  const env = { PATH: "" };
  assert.equal(find(second, { env, platform: "linux" }), second);
  assert.equal(find("~/second/mopd", { env, home: folder, platform: "linux" }), second);
  assert.equal(find("./second/mopd", { env, folder, platform: "linux" }), second);
  assert.equal(find("~/second/none", { env, home: folder, platform: "linux" }), undefined);
  assert.equal(find(path.join(folder, "second"), { env, platform: "linux" }), undefined, "a folder is no program");
});

test("on Windows a name may lack its ending", () => {
  assert.equal(find("mopd", { env: { Path: path.join(folder, "windows") }, platform: "win32" }), windows);
});

test("the message names what was looked for, and the ways out", () => {
  assert.match(notFound("mopd"), /no program `mopd` on the PATH.*Choose the program/);
  assert.match(notFound("/opt/mopd"), /`\/opt\/mopd`, which the setting `mopd.path` names, is not a program/);
});
