"""Runs the experiments of the gallery and puts their reports into the built book, target/book, with links to them.

    mdbook build book
    python3 book/gallery.py [target/release/mopd] [NAME...]

The page has a comment where the link to a report belongs, which a reader of the source does not see; NAMEs are those of the
comments, else all of them. To be run after `mdbook build`, which empties the folder and writes the page anew.
"""

import html
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOK = ROOT / "target/book"
MARK = re.compile(r"<!-- report: (\w+) -->")


def reported(mopd: str, name: str) -> str:
    """Runs an example as its reader does. The line of the page that leads to its report."""
    with tempfile.TemporaryDirectory() as place:
        quiet = {"cwd": place, "check": True, "capture_output": True, "text": True}
        file = subprocess.run([mopd, "new", "--example", name, name], **quiet).stdout.strip()
        ran = subprocess.run([mopd, "run", file, "--predict", "never"], **quiet).stderr
        [run] = pathlib.Path(place, "runs").iterdir()
        page = subprocess.run([mopd, "report", run], **quiet).stdout.strip()
        (BOOK / "gallery").mkdir(exist_ok=True)
        shutil.copy(pathlib.Path(place, page), BOOK / f"gallery/{name}.html")
    print(BOOK / f"gallery/{name}.html")
    # As in "1 min 58 s, peak memory 222 MiB, results in runs/quickstart".
    took = ran.strip().splitlines()[-1].split(", ")[0]
    return f'<p><a href="gallery/{name}.html">The report of <code>{name}</code></a>, of a run of {html.escape(took)}.</p>'


def main() -> None:
    mopd = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/mopd").resolve())
    file = BOOK / "gallery.html"
    if not file.exists():
        sys.exit(f"there is no {file}: `mdbook build book` makes it")
    page = file.read_text()
    known = MARK.findall(page)
    for name in sys.argv[2:] or known:
        if name not in known:
            sys.exit(f"the page has no place for a report of {name}, but for {', '.join(known) or 'none: build it anew'}")
        line = reported(mopd, name)
        page = page.replace(f"<!-- report: {name} -->", line)
        file.write_text(page)


if __name__ == "__main__":
    main()
