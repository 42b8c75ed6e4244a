"""Finds or fetches libtorch and prints the folder to use as LIBTORCH. `libtorch.py fetch PINS` only fetches; `mopd setup`, which
has searched already, starts it so, with the text of libtorch.txt. `fetch-cuda` fetches the whole torch and the libraries of
NVIDIA that it names, some 5 GB, for machines with a GPU.

In this order: the folder in $LIBTORCH; the torch of this Python environment, where its version matches; the wheels
named in libtorch.txt, downloaded by pip once, checked against their checksums, and kept outside the checkout so that
every clone shares them ($MOPD_CACHE, else $XDG_CACHE_HOME/mopd, else ~/.cache/mopd).
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

CUDA = sys.argv[1:2] == ["fetch-cuda"]
FETCH = CUDA or sys.argv[1:2] == ["fetch"]
TEXT = sys.argv[2] if FETCH else (pathlib.Path(__file__).resolve().parent / "libtorch.txt").read_text()
PINS = [line.split() for line in TEXT.splitlines() if line and not line.startswith("#")]
VERSION = PINS[0][0].split("==")[1]

# What the worker needs out of each wheel: 450 MB of libraries and headers, not the 5 GB of a full installation.
LIBRARIES = {
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def installed():
    """The folder of torch in this Python environment, if it has the version that tch binds."""
    try:
        found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    if found.split("+")[0] != VERSION:
        say(f"setup: ignoring the installed torch {found}: mopd needs {VERSION}")
        return None
    spec = importlib.util.find_spec("torch")
    return pathlib.Path(spec.origin).parent if spec and spec.origin else None


def cache():
    if "MOPD_CACHE" in os.environ:
        return pathlib.Path(os.environ["MOPD_CACHE"])
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "mopd"


def download(pins, into):
    """Downloads the pinned wheels; pip verifies their checksums."""
    for requirement, platform, digest in pins:
        say(f"setup: fetching {requirement}")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pin:
            pin.write(f"{requirement} --hash={digest}\n")
            pin.flush()
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                       "--require-hashes", "--only-binary=:all:", "--python-version", "3.11", "--platform", platform,
                       "--dest", str(into), "--requirement", pin.name]
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                sys.exit(f"setup: pip could not fetch {requirement}. Without a network, install torch {VERSION} yourself"
                         " and set LIBTORCH to its folder.")


def assemble(wheels, folder):
    """Unpacks the headers and the few linked libraries in the layout that tch expects."""
    (folder / "lib").mkdir(parents=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.filename in LIBRARIES:
                    target = folder / "lib" / pathlib.PurePosixPath(entry.filename).name
                elif entry.filename.startswith("torch/include/") and not entry.is_dir():
                    target = folder / pathlib.PurePosixPath(entry.filename).relative_to("torch")
                else:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
    # tch links -ltorch; the real one only pulls in the CUDA half. A script for the linker takes its place.
    (folder / "lib" / "libtorch.so").write_text("INPUT(AS_NEEDED(-ltorch_cpu))\n")


def libraries(metadata):
    """The packages of NVIDIA that torch requires, with versions: `nvidia-nccl-cu13==2.28.9`, `cuda-toolkit[cublas]==13.0.2`."""
    asked = [line.removeprefix("Requires-Dist: ").split(";")[0].strip() for line in metadata.splitlines()
             if line.startswith("Requires-Dist: ")]
    return [requirement for requirement in asked if requirement.startswith(("nvidia-", "cuda-toolkit"))]


def is_cut(path):
    """Whether a library lacks its end: it is empty, or shorter than its ELF header says."""
    length = path.stat().st_size
    header = path.open("rb").read(64)
    if header[:4] != b"\x7fELF":
        return length == 0
    if len(header) < 64:
        return True
    table, size, count = struct.unpack_from("<Q", header, 40)[0], *struct.unpack_from("<HH", header, 58)
    return table + size * count > length


def whole(folder, libtorch):
    """Whether an earlier set-up is there. One that was cut by a full disk or a power failure is removed."""
    cut = sorted(path.name for path in (libtorch / "lib").glob("*") if path.is_file() and is_cut(path))
    if cut:
        say(f"setup: {libtorch} is fetched again: lib/{cut[0]} is cut, its end is missing")
        shutil.rmtree(folder)
    return folder.exists()


def with_cuda():
    """Fetches all of torch with the libraries beside it, where torch's own paths find them."""
    root = cache()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"libtorch-{VERSION}-cuda"
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole(folder, folder / "torch"):
            wheels = root / f"libtorch-{VERSION}-cuda-wheels"
            wheels.mkdir(exist_ok=True)
            download([pin for pin in PINS if pin[0].startswith("torch==")], wheels)
            [torch] = wheels.glob("torch-*.whl")
            with zipfile.ZipFile(torch) as archive:
                [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
                wanted = libraries(archive.read(metadata).decode())
            # The versions are torch's own; the wheel that names them has a pinned checksum.
            say("setup: fetching the libraries of NVIDIA that torch asks for")
            platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)]
            platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
            with tempfile.TemporaryDirectory(dir=root) as work:
                made = pathlib.Path(work) / "site"
                install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
                           "--only-binary=:all:", "--python-version", "3.11", *platforms, "--target", str(made)]
                for what in (["--no-deps", str(torch)], wanted):
                    if subprocess.run([*install, *what], stdout=sys.stderr).returncode != 0:
                        sys.exit("setup: pip could not fetch what a GPU needs; the same command begins again with it")
                made.rename(folder)
            shutil.rmtree(wheels)
    return folder / "torch"


def fetched():
    root = cache()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"libtorch-{VERSION}-cpu"
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two clones set up at once: the second waits and finds it done.
        if not whole(folder, folder):
            # Whole downloads are kept until all are there: an interrupted set-up goes on with the next one.
            wheels = root / f"libtorch-{VERSION}-wheels"
            wheels.mkdir(exist_ok=True)
            download(PINS, wheels)
            with tempfile.TemporaryDirectory(dir=root) as work:
                made = pathlib.Path(work) / "libtorch"
                assemble(wheels, made)
                made.rename(folder)
            shutil.rmtree(wheels)
    return folder


def main():
    if os.environ.get("LIBTORCH") and not FETCH:
        print(os.environ["LIBTORCH"])
        return
    if os.uname().machine != "x86_64" or sys.platform != "linux":
        place = None if FETCH else installed()
        if not place:
            sys.exit(f"setup: no pinned libtorch for {sys.platform} {os.uname().machine}: install torch {VERSION} with pip, or set LIBTORCH.")
        print(place)
        return
    if CUDA:
        print(with_cuda())
        return
    print((not FETCH and installed()) or fetched())


if __name__ == "__main__":
    main()
