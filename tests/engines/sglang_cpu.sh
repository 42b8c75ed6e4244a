#!/bin/sh
# A Python environment with SGLang 0.5.23 for the processor, of PyPI alone: 6.9 GB, three minutes.
#   tests/engines/sglang_cpu.sh FOLDER
#   SGLANG_USE_CPU_ENGINE=1 MOPD_SGLANG="FOLDER/bin/python -m sglang.launch_server --model-path --device cpu \
#     --attention-backend torch_native --disable-cuda-graph --disable-overlap-schedule --grammar-backend none \
#     --max-total-tokens 16384" ./x test --engines
# SGLang's torch is built for CUDA, does the same on the processor, and does not load without NVIDIA's libraries.
# Kernels for the processor (sgl_kernel) are not on PyPI. Without AMX, SGLang computes a plain model by torch alone,
# and only imports their names. So a module with these names is put in their place.
set -eu
folder=${1:?a folder for the environment}
python3 -m venv "$folder"
pip() { "$folder/bin/python" -m pip install --quiet --no-cache-dir "$@"; }
pip torch==2.14.1
pip --no-deps sglang==0.5.23 torchvision==0.29.2 xgrammar==0.2.7
# Of SGLang's requirements, those that its server imports on the processor. The others are kernels for GPUs,
# readers of sound and video, and front ends.
"$folder/bin/python" - > "$folder/requirements.txt" <<'END'
import re
from importlib.metadata import requires
skipped = re.compile(
    "(torch|cuda|nvidia-(?!ml-py)|nvshmem|flash|humming|quack|sgl-|sglang-kernel|tilelang|timm|tml|kernels|smg-|"
    "deepseek|decord|av=|outlines|xgrammar|build$)"
)
print("\n".join(r for r in requires("sglang") if "extra ==" not in r and not skipped.match(r)))
END
pip --requirement "$folder/requirements.txt"
packages=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
mkdir -p "$packages/sgl_kernel"
cat > "$packages/sgl_kernel/__init__.py" <<'END'
def __getattr__(name):
    if not name.endswith("_cpu"):
        raise AttributeError(name)

    def missing(*_):
        raise NotImplementedError(name)

    return missing
END
SGLANG_USE_CPU_ENGINE=1 "$folder/bin/python" -c "import sglang; print('sglang', sglang.__version__)"
