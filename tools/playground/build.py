"""Compiles the front end to WebAssembly and puts it into one page: target/playground/index.html.

Ends with status 2 where this Rust can't compile to WebAssembly and `rustup` can't add that.
"""

import base64
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys

TARGET = "wasm32-wasip1"
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


def target_installed() -> bool:
    known = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
    if (pathlib.Path(known.stdout.strip()) / "lib/rustlib" / TARGET).is_dir():
        return True
    return shutil.which("rustup") is not None and subprocess.run(["rustup", "target", "add", TARGET]).returncode == 0


def compiled(target: pathlib.Path) -> bytes:
    # Deeply nested texts need deep recursion; without names and debug information, the file has half of the size.
    flags = "-C link-arg=-zstack-size=8388608 -C strip=symbols"
    environment = {**os.environ, f"CARGO_TARGET_{TARGET.upper().replace('-', '_')}_RUSTFLAGS": flags}
    command = ["cargo", "build", "--locked", "--release", "--target", TARGET, "--package", "mopd-playground"]
    subprocess.run([*command, "--target-dir", target], cwd=ROOT, env=environment, check=True)
    return (target / TARGET / "release/mopd-playground.wasm").read_bytes()


def page(program: bytes) -> str:
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    parts = {
        "version": version,
        "example": html.escape((HERE / "page/example.mopd").read_text()),
        "program": base64.b64encode(program).decode(),
        "script": (HERE / "page/playground.js").read_text(),
    }
    template = (HERE / "page/index.html").read_text()
    return re.sub(r"{{(\w+)}}", lambda part: parts[part.group(1)], template)


def main() -> None:
    if not target_installed():
        print(f"setup: this Rust can't compile to WebAssembly: `rustup target add {TARGET}`", file=sys.stderr)
        sys.exit(2)
    out = pathlib.Path(sys.argv[1])
    # Its own folder, because its flags differ from those of the programs.
    program = compiled(out / "build")
    (out / "index.html").write_text(page(program))
    print(out / "index.html")


if __name__ == "__main__":
    main()
