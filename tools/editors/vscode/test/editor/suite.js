// Run inside of VS Code: the extension starts a real `mopd lsp` and the editor shows what it says.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const vscode = require("vscode");

const { expansion } = require("../expansion");
const snippets = require("../../snippets/mopd.json");

const folder = process.env.MOPD_TEST_FOLDER;

/** What `look` gives once it gives something. */
async function until(what, look) {
  const end = Date.now() + 30_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function open(name, text) {
  const file = path.join(folder, name);
  fs.writeFileSync(file, text);
  const document = await vscode.workspace.openTextDocument(vscode.Uri.file(file));
  const editor = await vscode.window.showTextDocument(document);
  return { document, editor };
}

const tests = {
  async "a .mopd file is a mopd document and activates the extension"() {
    const { document } = await open("a.mopd", "let a = 1\n");
    assert.equal(document.languageId, "mopd");
    const extension = vscode.extensions.getExtension("mopd.mopd");
    assert.ok(extension, "the extension is not there");
    const { state } = await extension.activate();
    await until("the server", () => state() === "Running");
  },

  async "diagnostics are shown where the compiler places them, and offer their fix"() {
    const { document } = await open("wrong.mopd", "// π𝄞\nlet a = 2 ** 3\n");
    const [diagnostic] = await until("a diagnostic", () => {
      const found = vscode.languages.getDiagnostics(document.uri);
      return found.length > 0 && found;
    });
    assert.match(diagnostic.message, /a power is written `\^`/);
    assert.deepEqual([diagnostic.range.start.line, diagnostic.range.start.character], [1, 10]);
    const actions = await vscode.commands.executeCommand("vscode.executeCodeActionProvider", document.uri, diagnostic.range);
    const fix = actions.find((action) => /write `\^`/.test(action.title));
    assert.ok(fix, `no fix among ${actions.map((action) => action.title)}`);
    await vscode.workspace.applyEdit(fix.edit);
    await until("the diagnostic to go", () => vscode.languages.getDiagnostics(document.uri).length === 0);
    assert.match(document.getText(), /2 \^ 3/);
  },

  async "hover, completion, definition and formatting come from the server"() {
    const { document } = await open("good.mopd", "/// Half of the peak.\nlet decay=0.5\nlet twice = 2 * decay\n");
    const place = new vscode.Position(2, 18);
    const hover = await until("a hover", async () => {
      const found = await vscode.commands.executeCommand("vscode.executeHoverProvider", document.uri, place);
      return found.length > 0 && found;
    });
    assert.match(hover[0].contents.map((content) => content.value).join(), /Half of the peak/);
    const completion = await vscode.commands.executeCommand("vscode.executeCompletionItemProvider", document.uri, place);
    assert.ok(completion.items.some((item) => (item.label.label ?? item.label) === "decay"));
    const [target] = await vscode.commands.executeCommand("vscode.executeDefinitionProvider", document.uri, place);
    assert.equal((target.range ?? target.targetRange).start.line, 1);
    const edits = await vscode.commands.executeCommand("vscode.executeFormatDocumentProvider", document.uri, { tabSize: 2, insertSpaces: true });
    assert.ok(edits.length > 0);
  },

  async "Enter after a documentation comment continues it"() {
    const { document, editor } = await open("doc.mopd", "/// What it is.");
    editor.selection = new vscode.Selection(0, 15, 0, 15);
    await vscode.commands.executeCommand("type", { text: "\n" });
    assert.equal(document.getText().replace("\r", ""), "/// What it is.\n/// ");
  },

  async "snippets are proposed"() {
    const { document } = await open("snippet.mopd", "distill\n");
    const found = await vscode.commands.executeCommand("vscode.executeCompletionItemProvider", document.uri, new vscode.Position(0, 7));
    const snippet = vscode.CompletionItemKind.Snippet;
    assert.ok(found.items.some((item) => item.kind === snippet && (item.label.label ?? item.label) === "distill"));
  },

  async "snippets expand to what the other tests check"() {
    const { document, editor } = await open("expanded.mopd", "");
    for (const { body } of Object.values(snippets)) {
      const whole = new vscode.Range(0, 0, document.lineCount, 0);
      await editor.insertSnippet(new vscode.SnippetString([body].flat().join("\n")), whole);
      assert.equal(document.getText(), expansion(body));
    }
  },

  async "the command starts the server again"() {
    const { state } = vscode.extensions.getExtension("mopd.mopd").exports;
    await vscode.commands.executeCommand("mopd.restart");
    assert.equal(state(), "Running");
    const { document } = await open("again.mopd", "let a = 1 2\n");
    await until("a diagnostic", () => vscode.languages.getDiagnostics(document.uri).length > 0);
  },

  async "another setting starts another program; none is no crash"() {
    const { state } = vscode.extensions.getExtension("mopd.mopd").exports;
    const settings = vscode.workspace.getConfiguration("mopd");
    const right = settings.get("path");
    await settings.update("path", path.join(folder, "nowhere"), vscode.ConfigurationTarget.Workspace);
    await until("the server to end", () => state() === "Absent");
    await settings.update("path", right, vscode.ConfigurationTarget.Workspace);
    await until("the server", () => state() === "Running");
  },
};

/** What VS Code calls. The report is written for the program that started it. */
async function run() {
  const report = [];
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      report.push(`ok   ${name}`);
    } catch (problem) {
      failed += 1;
      report.push(`FAIL ${name}\n${problem.stack ?? problem}`);
    }
  }
  report.push(`VS Code ${vscode.version}: ${report.length - failed} of ${report.length} passed`);
  fs.writeFileSync(path.join(folder, "report"), report.join("\n") + "\n");
  if (failed > 0) throw new Error(report.join("\n"));
}

module.exports = { run };
