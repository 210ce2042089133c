#!/usr/bin/env bash
# Start the GenEval service as a process of its own, train against it over gRPC, stop it.
# The service is started again whenever it dies; training waits meanwhile.
#   scripts/train_with_service.sh CONFIG [field=value ...]
#   BIN: folder of the `assay` command; SERVICE_LOG: file; SERVICE_ARGS: field=value ... for the service
set -euo pipefail
bin=${BIN:-.venv/bin}
log=${SERVICE_LOG:-runs/geneval-service.log}
mkdir -p "$(dirname "$log")"
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TOKENIZERS_PARALLELISM=false

keep_serving() {
    local service
    # On TERM the service drains and exits with 0; any other exit is a death, and it is started again.
    trap 'kill -TERM "$service" 2>/dev/null; wait "$service"; exit 0' TERM
    while true; do
        # shellcheck disable=SC2086  # several overrides in one variable
        OMP_NUM_THREADS=1 "$bin/assay" serve geneval ${SERVICE_ARGS:-} >>"$log" 2>&1 &
        service=$!
        wait "$service" && exit 0
        echo "the GenEval service ended with code $?; starting it again (log: $log)" >&2
        sleep 1
    done
}

echo "starting the GenEval service (log: $log)"
keep_serving &
keeper=$!
trap 'kill -TERM "$keeper" 2>/dev/null; wait "$keeper" 2>/dev/null || true' EXIT
"$bin/assay" train "$@"
