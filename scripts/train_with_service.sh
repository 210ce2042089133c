#!/usr/bin/env bash
# Start the GenEval service as a process of its own, train against it over gRPC, stop it.
# The service is started again when it dies, and training waits meanwhile. One that cannot start ends it all.
#   scripts/train_with_service.sh CONFIG [field=value ...]
#   BIN: folder of the `assay` command; SERVICE_LOG: file; SERVICE_ARGS: field=value ... for the service
#   TARGET: host:port of a service that runs already, such as a container's: then none is started here
set -euo pipefail
bin=${BIN:-.venv/bin}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TOKENIZERS_PARALLELISM=false

if [ -n "${TARGET:-}" ]; then
    exec "$bin/assay" train "$@" "rewards.0.targets=[$TARGET]"
fi

log=${SERVICE_LOG:-runs/geneval-service.log}
mkdir -p "$(dirname "$log")"
: >"$log"

keep_serving() {
    local service started code
    # On TERM the service drains and exits with 0; any other exit is a death.
    trap 'kill -TERM "$service" 2>/dev/null; wait "$service"; exit 0' TERM
    while true; do
        started=$SECONDS
        # shellcheck disable=SC2086  # several overrides in one variable
        OMP_NUM_THREADS=1 "$bin/assay" serve geneval ${SERVICE_ARGS:-} >>"$log" 2>&1 &
        service=$!
        code=0
        wait "$service" || code=$?
        [ "$code" -eq 0 ] && exit 0
        if [ "$code" -le 2 ]; then # a clear refusal: wrong settings, a port that is taken, a model that does not load
            echo "the GenEval service cannot start (its log is $log):" >&2
            tail -n 3 "$log" >&2
            kill -TERM "$1"
            exit 1
        fi
        echo "the GenEval service died with code $code after $((SECONDS - started)) s; starting it again (log: $log)" >&2
        sleep 1
    done
}

echo "starting the GenEval service (log: $log)"
"$bin/assay" train "$@" &
trainer=$!
keep_serving "$trainer" &
keeper=$!
trap 'kill -TERM "$trainer" "$keeper" 2>/dev/null || true' INT TERM
code=0
wait "$trainer" || code=$?
kill -TERM "$keeper" 2>/dev/null || true
wait "$keeper" 2>/dev/null || true
exit "$code"
