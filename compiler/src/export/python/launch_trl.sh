#!/bin/sh
# Trains with TRL 1.16.0, on one device.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
exec python3 "$folder/train.py" "$@"
