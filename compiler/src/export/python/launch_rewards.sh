# The rewards of completions come from `mopd rewards`, which starts the program and ends with it.
if [ -e "$folder/rewards.json" ]; then
    if ! command -v "${MOPD:=mopd}" >/dev/null; then
        echo "launch.sh: there is no $MOPD, which computes the rewards: install mopd on this machine, or set MOPD to the program's path" >&2
        exit 1
    fi
    set -- "$MOPD" rewards "$folder" -- "$@"
fi
exec "$@"
