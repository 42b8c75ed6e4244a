// Runs `suite.js` inside of a real VS Code, without a screen.
//
// By default @vscode/test-electron fetches the VS Code of the minimum version and runs it under Xvfb. Where it can't be fetched,
// CODE_SERVER names the `entry.js` of a code-server (VS Code's server and workbench, on npm) and CHROMIUM the browser that opens it:
// the extension host is the same.

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");

const extension = path.resolve(__dirname, "../..");
const suite = path.join(__dirname, "suite.js");
const minimum = require("../../package.json").engines.vscode.replace("^", "");

async function main() {
  const mopd = process.env.MOPD_BIN;
  if (!mopd) throw new Error("MOPD_BIN must name the mopd program that the extension is to start");
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mopd-vscode-"));
  const report = path.join(folder, "report");
  const env = { ...process.env, MOPD_TEST_FOLDER: folder };
  fs.mkdirSync(path.join(folder, ".vscode"));
  fs.writeFileSync(path.join(folder, ".vscode/settings.json"), JSON.stringify({ "mopd.path": path.resolve(mopd) }));
  try {
    if (process.env.CODE_SERVER) await inCodeServer(folder, report, env);
    else await inElectron(folder, env);
    const text = fs.readFileSync(report, "utf8");
    console.log(text);
    if (/^FAIL/m.test(text)) process.exitCode = 1;
  } finally {
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function inElectron(folder, env) {
  const { runTests } = require("@vscode/test-electron");
  await runTests({
    version: minimum,
    extensionDevelopmentPath: extension,
    extensionTestsPath: suite,
    extensionTestsEnv: env,
    launchArgs: [folder, "--disable-extensions", "--disable-workspace-trust", "--no-sandbox"],
  });
}

async function inCodeServer(folder, report, env) {
  const browser = process.env.CHROMIUM || "chromium";
  const port = await freePort();
  const data = fs.mkdtempSync(path.join(os.tmpdir(), "mopd-code-server-"));
  const serve = [process.env.CODE_SERVER, "--auth", "none", "--bind-addr", `127.0.0.1:${port}`, "--user-data-dir", data];
  serve.push("--config", path.join(data, "config.yaml"));
  serve.push("--extensions-dir", path.join(data, "extensions"), "--disable-telemetry", "--disable-update-check", "--disable-workspace-trust");
  const server = spawn(process.execPath, serve, { env, stdio: "ignore" });
  let page;
  try {
    await until(30, () => answers(port));
    const remote = (file) => `vscode-remote://127.0.0.1:${port}${file}`;
    const payload = [["extensionDevelopmentPath", remote(extension)], ["extensionTestsPath", remote(suite)]];
    const address = `http://127.0.0.1:${port}/?folder=${encodeURIComponent(folder)}&payload=${encodeURIComponent(JSON.stringify(payload))}`;
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,900"];
    flags.push(`--user-data-dir=${path.join(data, "browser")}`);
    page = spawn(browser, [...flags, address], { stdio: "ignore", detached: true }); // Detached: it ends with all its children.
    await until(180, () => fs.existsSync(report));
  } finally {
    if (page?.pid) process.kill(-page.pid, "SIGKILL");
    server.kill("SIGTERM");
    fs.rmSync(data, { recursive: true, force: true, maxRetries: 5 });
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = net.createServer();
    probe.on("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

function answers(port) {
  return fetch(`http://127.0.0.1:${port}/healthz`).then((answer) => answer.ok, () => false);
}

async function until(seconds, holds) {
  const end = Date.now() + 1000 * seconds;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`nothing happened for ${seconds} seconds`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

main().catch((problem) => {
  console.error(problem.message ?? problem);
  process.exitCode = 1;
});
