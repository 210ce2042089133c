#!/usr/bin/env bash
# What the project is made of, and what is known against it:
#
#   scripts/supply_chain.sh sbom [FILE]   a bill of materials (CycloneDX 1.6, JSON) of what .venv holds; sbom.json
#   scripts/supply_chain.sh audit         look every pinned version up in PyPI's advisories; needs the network
#
# The tools live in an environment of their own, .venv-audit.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    sbom) tool=cyclonedx-bom==7.5.0 command=cyclonedx-py ;;
    audit) tool=pip-audit==2.10.1 command=pip-audit ;;
    *) sed -n '2,7p' "$0" >&2; exit 2 ;;
esac
if [ ! -x ".venv-audit/bin/$command" ]; then
    test -x .venv-audit/bin/python || python3 -m venv .venv-audit
    .venv-audit/bin/pip install --quiet --disable-pip-version-check "$tool"
fi
if [ "$1" = sbom ]; then
    .venv-audit/bin/cyclonedx-py environment .venv/bin/python --pyproject pyproject.toml --mc-type application \
        --output-reproducible --of JSON -o "${2:-sbom.json}"
else
    # The lock names every package: no resolving, no installing. pip-audit passes over what the index has no record of,
    # and an index that is a mirror may have none at all; then nothing was looked up, and that is no clean bill.
    report=$(.venv-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip -f json) && status=0 || status=$?
    printf '%s' "$report" | python3 -c '
import json, sys
found = json.load(sys.stdin)["dependencies"]
looked_up = [entry for entry in found if "skip_reason" not in entry]
for entry in looked_up:
    for known in entry["vulns"]:
        print(entry["name"], entry["version"], known["id"], "mended in", ", ".join(known["fix_versions"]) or "none yet")
print(f"{len(looked_up)} of {len(found)} packages were looked up")
sys.exit(3 if len(looked_up) < len(found) * 0.9 else 0)'
    exit "$status"
fi
