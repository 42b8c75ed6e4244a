#!/bin/sh
# Trains with verl 0.9.1. Settings of verl can follow, such as trainer.n_gpus_per_node=8.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
export MOPD_EXPORT="$folder"
path="$folder${PYTHONPATH:+:$PYTHONPATH}"
# Every process of verl imports this module before it reads the configuration.
export VERL_USE_EXTERNAL_MODULES=mopd_verl
case $path in
*[\'\"\\\$]*)
    echo "launch.sh: move this folder to a path without quotes, \\ and \$: PYTHONPATH is $path" >&2
    exit 1
    ;;
esac
# verl passes these to Ray as they are written, so that the configuration can't name them by \${oc.env:...}.
env_vars=ray_kwargs.ray_init.runtime_env.env_vars
set -- "+$env_vars.MOPD_EXPORT='$folder'" "+$env_vars.PYTHONPATH='$path'" "$@"
# verl's actors reserve CPUs, ten for each GPU and some more, and it waits without a word for those that do not exist. A
# cluster that runs already has its own number.
if [ -z "${RAY_ADDRESS:-}" ]; then
    cpus=$(getconf _NPROCESSORS_ONLN)
    set -- "ray_kwargs.ray_init.num_cpus=$((cpus > 256 ? cpus : 256))" "$@"
fi
python3 - <<'CHECK'
import importlib.metadata
import sys

for package, wanted in {"verl": "0.9.1", "TransferQueue": None}.items():
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None or found != (wanted or found):
        has = f"has {package} {found}" if found else f"has no {package}"
        sys.exit(f"launch.sh: {sys.executable} {has}: pip install 'verl[vllm]==0.9.1', and put its python3 first on the PATH")
CHECK
set -- env PYTHONPATH="$path" python3 -m verl.trainer.main_ppo --config-path "$folder" --config-name config "$@"
