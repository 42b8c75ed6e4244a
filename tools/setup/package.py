"""Builds mopd and mopd-worker into a wheel, with the module `mopd` of Python and without libtorch: `package.py FOLDER`, or as
the build backend of pyproject.toml.

The programs contain no path of this machine, and the wheel's tag is the oldest glibc that they run with; both are checked
in the programs themselves. Only Python and what builds mopd is needed; with the package `ziglang`, the programs run with an
older glibc than this machine's (`glibc.py`).
"""

import base64
import hashlib
import os
import pathlib
import platform
import re
import subprocess
import sys
import zipfile

import glibc

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAMS = ["mopd", "mopd-worker"]
# What `mopd query` needs, as in tools/python/mopd/_query.py.
POLARS = "polars>=2.1"

# The least versions of libstdc++ (GLIBCXX_3.4.N, CXXABI_1.3.P) on systems with a glibc (2.M): PEP 600's profiles, (M, N, P).
PROFILES = [(17, 19, 7), (24, 22, 10), (28, 24, 11), (31, 28, 12), (34, 29, 13), (35, 30, 13), (39, 33, 15)]


def toml(path):
    import tomllib  # Python 3.11, of whoever builds; the programs run beside any.

    return tomllib.loads(path.read_text())


def environment():
    """The environment for cargo and the C++ compiler, and the paths that must not be in the programs."""
    found = dict(os.environ)
    if not found.get("LIBTORCH"):
        said = subprocess.run([sys.executable, str(HERE / "libtorch.py")], check=True, stdout=subprocess.PIPE, text=True)
        found["LIBTORCH"] = said.stdout.strip()
    home = pathlib.Path.home()
    target = pathlib.Path(found.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "wheel"
    names = {
        found.get("CARGO_HOME") or str(home / ".cargo"): "cargo",
        found.get("RUSTUP_HOME") or str(home / ".rustup"): "rustup",
        str(ROOT): "mopd",
    }
    if not target.is_relative_to(ROOT):
        names[str(target)] = "target"
    flags = [f"--remap-path-prefix={path}={name}" for path, name in names.items()]
    if glibc.available():
        flags += [f"-Clink-arg={argument}" for argument in glibc.libraries(target / "glibc")]
    names[found["LIBTORCH"]] = "libtorch"
    mapped = " ".join(f"-ffile-prefix-map={path}={name}" for path, name in names.items())
    found.update(
        CARGO_TARGET_DIR=str(target),  # Its own: other flags compile everything again.
        CARGO_ENCODED_RUSTFLAGS="\x1f".join(flags),
        CFLAGS=f"{found.get('CFLAGS', '')} {mapped}".strip(),
        CXXFLAGS=f"{found.get('CXXFLAGS', '')} {mapped}".strip(),
        CARGO_INCREMENTAL="0",
        CARGO_PROFILE_RELEASE_STRIP="symbols",
        LIBTORCH_BYPASS_VERSION_CHECK="1",
        MOPD_RELOCATABLE="1",
    )
    return found, target, list(names)


def build():
    variables, target, paths = environment()
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", str(ROOT / "Cargo.toml"),
               "--package", "mopd", "--package", "mopd-runtime"]
    subprocess.run(command, check=True, env=variables, stdout=sys.stderr)
    programs = {name: (target / "release" / name).read_bytes() for name in PROGRAMS}
    for name, content in programs.items():
        for path in paths:
            at = content.find(path.encode())
            if at >= 0:
                sys.exit(f"wheel: {name} has a path of this machine in it: {content[at:at + 120]!r}")
    return programs


def tag(programs):
    """The tag of the oldest profile whose systems have the C and C++ libraries that the programs need."""
    if sys.platform != "linux":
        sys.exit("wheel: wheels are built on Linux only")
    everything = b"\0".join(programs.values())
    newest = lambda name: max(map(int, re.findall(rb"\0" + name + rb"(\d+)(?=[.\0])", everything)), default=0)
    asked = [newest(rb"GLIBC_2\."), newest(rb"GLIBCXX_3\.4\."), newest(rb"CXXABI_1\.3\.")]
    for profile in PROFILES:
        if all(version <= highest for version, highest in zip(asked, profile)):
            return f"py3-none-manylinux_2_{profile[0]}_{platform.machine()}"
    sys.exit("wheel: no profile has glibc 2.{} with GLIBCXX 3.4.{} and CXXABI 1.3.{}".format(*asked))


def metadata(project, version):
    pins = [line.split()[0] for line in (HERE / "libtorch.txt").read_text().splitlines() if line.startswith("torch==")]
    fields = [
        ("Metadata-Version", "2.4"), ("Name", project["name"]), ("Version", version),
        ("Summary", project["description"]), ("License-Expression", project["license"]),
        *(("License-File", name) for name in project["license-files"]),
        ("Requires-Python", project["requires-python"]),
        ("Provides-Extra", "torch"), ("Requires-Dist", f'{pins[0]}; extra == "torch"'),
        ("Provides-Extra", "query"), ("Requires-Dist", f'{POLARS}; extra == "query"'),
        ("Description-Content-Type", "text/markdown"),
    ]
    head = "".join(f"{name}: {value}\n" for name, value in fields)
    return head + "\n" + (ROOT / project["readme"]).read_text()


def module():
    """The files of the module, by their path in the wheel."""
    folder = ROOT / "tools" / "python"
    files = sorted(path for path in (folder / "mopd").iterdir() if path.suffix == ".py" or path.name == "py.typed")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def package(folder):
    """Builds the programs and writes the wheel. Returns its name."""
    return write(folder, build())


def write(folder, programs):
    """Writes a wheel with these programs. Returns its name."""
    project = toml(ROOT / "pyproject.toml")["project"]
    version = toml(ROOT / "Cargo.toml")["workspace"]["package"]["version"]
    platform_tag = tag(programs)
    name = f"{project['name']}-{version}"
    files = {f"{name}.data/scripts/{program}": content for program, content in programs.items()}
    files.update(module())
    listing = f"{name}.dist-info"
    files[f"{listing}/METADATA"] = metadata(project, version).encode()
    files[f"{listing}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: mopd {version}\nRoot-Is-Purelib: false\nTag: {platform_tag}\n".encode()
    for licence in project["license-files"]:
        files[f"{listing}/licenses/{licence}"] = (ROOT / licence).read_bytes()
    digest = lambda content: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    rows = [f"{path},sha256={digest(content)},{len(content)}\n" for path, content in files.items()]
    files[f"{listing}/RECORD"] = ("".join(rows) + f"{listing}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{platform_tag}.whl"
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)  # Of 1980: the same programs give the same bytes.
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    partial.replace(wheel)
    return wheel.name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return package(pathlib.Path(wheel_directory))


if __name__ == "__main__":
    print(pathlib.Path(sys.argv[1]) / package(pathlib.Path(sys.argv[1])))
