#!/usr/bin/env bash
# What the project is made of, and what is known against it:
#
#   scripts/supply_chain.sh sbom [FILE]   a bill of materials (CycloneDX 1.6, JSON) of what .venv holds; sbom.json
#   scripts/supply_chain.sh audit         check .venv against the lock, and look every pinned version up in PyPI's advisories
#
# Where the advisories cannot be reached, an audit says so and ends well, for what can be checked was; with
# AUDIT_STRICT=1 it ends with 3. The tools live in an environment of their own, .venv-audit.
set -euo pipefail
cd "$(dirname "$0")/.."

get_tool() { # COMMAND PACKAGE
    [ -x ".venv-audit/bin/$1" ] && return
    test -x .venv-audit/bin/python || .venv/bin/python -m venv .venv-audit
    .venv-audit/bin/pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 "$2"
}

not_looked_up() {
    echo "ADVISORIES WERE NOT LOOKED UP: $1. That is no clean bill; run it again where PyPI can be reached." >&2
    exit "$((${AUDIT_STRICT:-0} ? 3 : 0))"
}

bill_of_materials() {
    get_tool cyclonedx-py cyclonedx-bom==7.5.0
    .venv-audit/bin/cyclonedx-py environment .venv/bin/python --pyproject pyproject.toml --mc-type application \
        --output-reproducible --of JSON -o "${1:-sbom.json}"
}

audit() {
    # What goes without a network: nothing is installed at another version than the lock's, and all of it goes together.
    .venv/bin/python -m pytest -q -p no:xdist -p no:cacheprovider tests/test_lock.py
    .venv/bin/python -m pip check
    get_tool pip-audit pip-audit==2.10.1 || not_looked_up "pip-audit could not be installed"
    # The lock names every package: no resolving, no installing. pip-audit passes over what the index has no record of,
    # and an index that is a mirror may have none at all; then nothing was looked up.
    # What it says beside its report is left out: of nothing looked up, that nothing is known.
    local report said status=0
    said=$(mktemp)
    report=$(timeout 600 .venv-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip -f json 2>"$said") || status=$?
    [ -n "$report" ] || { tail -n 3 "$said" >&2; not_looked_up "pip-audit ended with $status and no report"; }
    rm "$said"
    printf '%s' "$report" | .venv/bin/python scripts/read_audit.py || case $? in
        3) not_looked_up "the index has no record of most packages" ;;
        *) exit 1 ;;
    esac
}

case ${1:-} in
    sbom) bill_of_materials "${2:-}" ;;
    audit) audit ;;
    *) sed -n '2,8p' "$0" >&2; exit 2 ;;
esac
