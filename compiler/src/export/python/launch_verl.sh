#!/bin/sh
# Trains with verl 0.9.1. One GPU trains, and each teacher runs on one. To use more, change trainer.n_gpus_per_node,
# distillation.n_gpus_per_node and num_replicas of the teachers in config.yaml.
set -eu
MOPD_EXPORT=$(cd "$(dirname "$0")" && pwd)
export MOPD_EXPORT
export PYTHONPATH="$MOPD_EXPORT${PYTHONPATH:+:$PYTHONPATH}"
# Every process of verl imports this module before it reads the configuration.
export VERL_USE_EXTERNAL_MODULES=mopd_verl
exec python3 -m verl.trainer.main_ppo --config-path "$MOPD_EXPORT" --config-name config "$@"
