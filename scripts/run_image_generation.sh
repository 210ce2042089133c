#!/usr/bin/env bash
# A full run of `assay generate` on all GPUs: for one planning model, or for `all`. Further arguments go through.
#
#   scripts/run_image_generation.sh Qwen3-VL-4B-Instruct
#   scripts/run_image_generation.sh all --flux_ckpt /path/to/other/checkpoint
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 PLANNING_MODEL|all [ARGUMENTS OF assay generate]" >&2; exit 2; }
source=(--planning_model "$1")
[ "$1" != all ] || source=(--all_planning_models)
shift
exec "${BIN:+$BIN/}assay" generate "${source[@]}" "$@"
