// What the extension does where an editor's test can't look: its messages, and what their buttons do. VS Code is a stub here.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const Module = require("node:module");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");

/** A VS Code with these settings, in which the button `press` is pressed. */
async function activated({ mopd, press, trusted = true, startFails = false }) {
  const seen = { messages: [], commands: [], updates: [], started: [], disposed: 0 };
  const settings = { path: mopd };
  const handlers = {};
  const nothing = { dispose() {} };
  const vscode = {
    ConfigurationTarget: { Global: 1 },
    window: {
      createOutputChannel: () => ({ info() {}, warn() {}, error() {}, show: () => seen.commands.push("show output"), dispose() {} }),
      showErrorMessage: async (message, ...ways) => {
        seen.messages.push({ message, ways });
        return ways.includes(press) ? press : undefined;
      },
      showOpenDialog: async () => [{ fsPath: "/chosen/mopd" }],
    },
    commands: {
      registerCommand: (name, run) => ((handlers[name] = run), nothing),
      executeCommand: async (...words) => void seen.commands.push(words.join(" ")),
    },
    workspace: {
      isTrusted: trusted,
      workspaceFolders: undefined,
      getConfiguration: () => ({
        get: (key) => settings[key],
        update: async (key, value, target) => void seen.updates.push([key, value, target]),
      }),
      onDidChangeConfiguration: (run) => ((handlers.configuration = run), nothing),
      onDidGrantWorkspaceTrust: (run) => ((handlers.trust = run), nothing),
    },
  };
  class LanguageClient {
    constructor(id, name, server) {
      this.server = server;
    }
    async start() {
      if (startFails) throw new Error("refused");
      seen.started.push([this.server.run.command, ...this.server.run.args]);
    }
    async dispose() {
      seen.disposed += 1;
    }
  }
  const stubs = {
    vscode,
    "vscode-languageclient/node": { LanguageClient, RevealOutputChannelOn: {}, State: {}, TransportKind: {} },
  };
  const load = Module._load;
  Module._load = (name, ...rest) => stubs[name] ?? load(name, ...rest);
  try {
    delete require.cache[require.resolve("../src/extension")];
    const extension = require("../src/extension");
    await extension.activate({ subscriptions: [] });
    await new Promise(setImmediate); // The answer to a message is not waited for.
    return { ...seen, seen, handlers, extension, vscode };
  } finally {
    Module._load = load;
  }
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mopd-extension-"));
test.after(() => fs.rmSync(folder, { recursive: true }));
const program = path.join(folder, "mopd");
fs.writeFileSync(program, "", { mode: 0o755 });
const missing = path.join(folder, "missing");

test("the server that is started is `mopd lsp`; the command starts it again", async () => {
  const { seen, handlers, extension } = await activated({ mopd: program });
  assert.deepEqual(seen.started, [[program, "lsp"]]);
  assert.deepEqual(seen.messages, []);
  await handlers["mopd.restart"]();
  assert.equal(seen.started.length, 2);
  assert.equal(seen.disposed, 1);
  await extension.deactivate();
  assert.equal(seen.disposed, 2);
});

test("a program that is not found is named, with two ways out", async () => {
  const { messages, started } = await activated({ mopd: missing });
  assert.deepEqual(started, []);
  assert.equal(messages.length, 1);
  assert.ok(messages[0].message.includes(missing));
  assert.deepEqual(messages[0].ways, ["Choose Program...", "Open Settings"]);
});

test("a chosen program becomes the setting", async () => {
  const { updates } = await activated({ mopd: missing, press: "Choose Program..." });
  assert.deepEqual(updates, [["path", "/chosen/mopd", 1]]);
});

test("the settings open at the setting", async () => {
  const { commands } = await activated({ mopd: missing, press: "Open Settings" });
  assert.deepEqual(commands, ["workbench.action.openSettings mopd.path"]);
});

test("a server that does not start is told, with its output", async () => {
  const { messages, commands } = await activated({ mopd: program, startFails: true, press: "Show Output" });
  assert.match(messages[0].message, /could not be started/);
  assert.deepEqual(commands, ["show output"]);
});

test("in a folder that is not trusted nothing is started until it is", async () => {
  const { seen, handlers, vscode } = await activated({ mopd: program, trusted: false });
  assert.deepEqual([seen.started, seen.messages], [[], []]);
  vscode.workspace.isTrusted = true;
  await handlers.trust();
  assert.equal(seen.started.length, 1);
});
