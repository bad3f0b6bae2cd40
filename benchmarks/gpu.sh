#!/usr/bin/env bash
# Measure speed on one GPU, then train alignDRAW on captioned scenes for the rest of the time:
#
#     benchmarks/gpu.sh CUTOUTS OUT [SECONDS] [DEVICE]
#
# CUTOUTS is a folder that `cap2im prepare cutouts` made. OUT gets one file of tables for each program and the run of the training, which
# `cap2im train --resume OUT/aligndraw-scenes` continues. SECONDS are for everything together (default 480). Nothing is installed.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 's/^#     //p' "$0" >&2; exit 2; }
cutouts=$(realpath "$1") out=$(realpath -m "$2") end=$((SECONDS + ${3:-480})) device=${4:-cuda}
cd "$(dirname "$0")/.."
mkdir -p "$out"

failed=0
within() { # run a command until the end of the time at most, with a copy of its output; SIGTERM lets a training save its last update
    local file=$1 left=$((end - SECONDS)) status=0
    shift
    [ "$left" -gt 0 ] || { echo "no time left for: $*"; return; }
    echo "+ $*"
    timeout --signal=TERM --kill-after=60 "$left" "$@" | tee "$out/$file" || status=$?
    [ "$status" = 0 ] || [ "$status" = 124 ] || { echo "failed with status $status: $*" >&2; failed=1; }
}

within aligndraw-mnist.md python -m benchmarks.speed --device "$device" --compile
within aligndraw-mnist-cuda-graphs.md env TORCHINDUCTOR_CUDAGRAPHS=1 python -m benchmarks.speed --device "$device" --compile
within aligndraw-coco.md python -m benchmarks.speed --device "$device" --compile --recipe aligndraw-coco-paper
within attngan-coco.md python -m benchmarks.attngan --device "$device" --batch 14
within training.txt cap2im train aligndraw-scenes --data "$cutouts" --run "$out/aligndraw-scenes"
exit "$failed"
