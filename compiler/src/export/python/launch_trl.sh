#!/bin/sh
# Trains with TRL 1.16.0. MOPD_PYTHON is the Python that has it, and MOPD_PROCESSES the number of processes.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
set -- env PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}" \
    "${MOPD_PYTHON:-python3}" -m torch.distributed.run --standalone --nproc-per-node "${MOPD_PROCESSES:-1}" \
    "$folder/train.py" "$@"
