// The language client: starts `mopd lsp`, says what to do where it can't.

const path = require("node:path");
const vscode = require("vscode");
const { LanguageClient, RevealOutputChannelOn, State, TransportKind } = require("vscode-languageclient/node");
const program = require("./program");

const CHOOSE = "Choose Program...";
const SETTINGS = "Open Settings";
const OUTPUT = "Show Output";

/** @type {LanguageClient | undefined} */
let client;
/** @type {vscode.LogOutputChannel} */
let output;
/** Starting and stopping take turns. */
let turn = Promise.resolve();

async function activate(context) {
  output = vscode.window.createOutputChannel("mopd", { log: true });
  context.subscriptions.push(
    output,
    vscode.commands.registerCommand("mopd.restart", () => restart()),
    ...["run", "watch", "audit"].map((name) => vscode.commands.registerCommand(`mopd.${name}`, (uri, options) => perform(name, uri, options))),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("mopd.path")) void restart();
    }),
    vscode.workspace.onDidGrantWorkspaceTrust(() => restart()),
  );
  await restart();
  return { state: () => (client ? State[client.state] : "Absent") };
}

function deactivate() {
  turn = turn.then(stop);
  return turn;
}

function restart() {
  turn = turn.then(async () => {
    await stop();
    await start();
  });
  return turn;
}

async function stop() {
  const running = client;
  client = undefined;
  try {
    await running?.dispose();
  } catch (problem) {
    output.warn(`The language server did not end as it should: ${problem}`);
  }
}

async function start() {
  if (!vscode.workspace.isTrusted) {
    output.info("The folder is not trusted: the language server is not started.");
    return;
  }
  const written = vscode.workspace.getConfiguration("mopd").get("path", "mopd");
  const command = program.find(written, { folder: vscode.workspace.workspaceFolders?.[0]?.uri.fsPath });
  if (!command) {
    // Not awaited: the question may stand for hours, and a restart must not wait for its answer.
    void offer(program.notFound(written), [CHOOSE, SETTINGS]);
    return;
  }
  output.info(`Starting ${command} lsp`);
  const server = { command, args: ["lsp"], transport: TransportKind.stdio };
  client = new LanguageClient("mopd", "mopd", { run: server, debug: server }, {
    documentSelector: [{ scheme: "file", language: "mopd" }],
    outputChannel: output,
    traceOutputChannel: output,
    revealOutputChannelOn: RevealOutputChannelOn.Never,
    // The lines above declarations start our commands; snippets are ours already.
    initializationOptions: { commands: true, snippets: true },
  });
  try {
    await client.start();
  } catch (problem) {
    client = undefined;
    output.error(`${command} lsp: ${problem}`);
    void offer(`\`${command} lsp\` could not be started. Is it a mopd that has a language server?`, [OUTPUT, CHOOSE, SETTINGS]);
  }
}

/** `mopd run` and the like of a file, in a terminal, with more options; of the one that is edited where none is named. */
async function perform(name, uri, more) {
  // A menu passes what is selected there.
  const options = Array.isArray(more) && more.every((option) => typeof option === "string") ? more : [];
  if (!vscode.workspace.isTrusted) return;
  const document = uri
    ? await vscode.workspace.openTextDocument(vscode.Uri.parse(uri, true))
    : vscode.window.activeTextEditor?.document;
  if (document?.languageId !== "mopd" || document.uri.scheme !== "file") {
    void vscode.window.showErrorMessage(`mopd ${name}: open a .mopd file first.`);
    return;
  }
  // What runs is on disk.
  if (document.isDirty && !(await document.save())) return;
  const folder = vscode.workspace.getWorkspaceFolder(document.uri);
  const cwd = folder?.uri.fsPath ?? path.dirname(document.uri.fsPath);
  const written = vscode.workspace.getConfiguration("mopd").get("path", "mopd");
  const command = program.find(written, { folder: cwd });
  if (!command) {
    void offer(program.notFound(written), [CHOOSE, SETTINGS]);
    return;
  }
  const execution = new vscode.ProcessExecution(command, [name, document.uri.fsPath, ...options], { cwd });
  const task = new vscode.Task({ type: "mopd" }, folder ?? vscode.TaskScope.Workspace, `${name} ${path.basename(document.uri.fsPath)}`, "mopd", execution, []);
  await vscode.tasks.executeTask(task);
}

/** Says what is wrong and does what is chosen. */
async function offer(message, ways) {
  output.error(message);
  const chosen = await vscode.window.showErrorMessage(message, ...ways);
  if (chosen === OUTPUT) output.show();
  if (chosen === SETTINGS) await vscode.commands.executeCommand("workbench.action.openSettings", "mopd.path");
  if (chosen === CHOOSE) {
    const files = await vscode.window.showOpenDialog({ title: "The mopd program", openLabel: "Use", canSelectMany: false });
    if (files?.length) {
      // The change of the setting starts the server.
      await vscode.workspace.getConfiguration("mopd").update("path", files[0].fsPath, vscode.ConfigurationTarget.Global);
    }
  }
}

module.exports = { activate, deactivate };
