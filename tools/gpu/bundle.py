#!/usr/bin/env python3
"""Packs everything to try mopd on a machine with a GPU and no network: `bundle.py PROGRAMS FOLDER`, which `./x gpu` runs.

Writes FOLDER/mopd-gpu.tar.xz, at most 64 MiB: the two programs without libtorch, the quickstart, `parity.mopd`, and the results of both on
this machine's CPU, recorded now. On the other machine, with torch 2.11 and CUDA:

    tar xf mopd-gpu.tar.xz && mopd-gpu/run
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MOST = 64 << 20
sys.path.insert(0, str(HERE))
import check  # noqa: E402

RUN = """#!/usr/bin/env bash
# Tries mopd on this machine's GPU. Options are check.py's.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec python3 "$here/check.py" "$here" "$@"
"""


def tokenizer(folder):
    """Writes a tokenizer of bytes in the format of tokenizers."""
    # The letters that byte-level tokenizers write for bytes: the byte itself if it is visible, else one from 256 on.
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, next_letter = {}, 256
    for byte in range(256):
        letters[byte] = chr(byte) if byte in seen else chr(next_letter)
        next_letter += byte not in seen
    special = {"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {letter: byte for byte, letter in letters.items()}, "merges": []},
    }))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}) + "\n")


def record(folder, out):
    """The results on the CPU."""
    checks = check.Checks(folder, out, "cpu")
    parity = {}
    for dtype in check.TOLERANCES:
        events, _ = checks.run(folder / "parity.mopd", f"recorded-{dtype}", dtype)
        parity[dtype] = check.losses_of(events)
    _, results = checks.run(folder / "quickstart.mopd", "recorded-quickstart", "float32")
    return {"parity": parity, "quickstart": check.cells_of(results)}


def main():
    programs, target = map(pathlib.Path, sys.argv[1:3])
    folder, out = target / "mopd-gpu", target / "recorded"
    for old in [folder, out]:
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ["mopd", "mopd-worker"]:
        shutil.copy(programs / name, folder / name)
        subprocess.run(["strip", str(folder / name)], check=True)
    shutil.copytree(ROOT / "examples" / "quickstart", folder / "quickstart")
    for file in [ROOT / "examples" / "quickstart.mopd", HERE / "parity.mopd", HERE / "check.py", ROOT / "tools" / "benches" / "random_checkpoint.py"]:
        shutil.copy(file, folder / file.name)
    tokenizer(folder / "tokenizer")
    (folder / "run").write_text(RUN)
    os.chmod(folder / "run", 0o755)
    (folder / "recorded.json").write_text(json.dumps(record(folder, out), indent=1) + "\n")
    for copy in folder.glob(".*.mopd"):
        copy.unlink()
    bundle = target / "mopd-gpu.tar.xz"
    with tarfile.open(bundle, "w:xz") as archive:
        archive.add(folder, "mopd-gpu")
    size = bundle.stat().st_size
    if size > MOST:
        sys.exit(f"bundle.py: {bundle} has {size / 2**20:.0f} MiB, {MOST >> 20} at most are allowed")
    print(f"{bundle}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
