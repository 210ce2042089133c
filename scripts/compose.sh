#!/usr/bin/env bash
# Run `docker compose` where it is installed, else Debian's package of it, unpacked beside the environment: enough for
# `config`, which needs no engine. Fails with 127 where there is neither, nor Debian's archive to get it from.
#   scripts/compose.sh config --quiet
#   VENV: the environment's folder
set -euo pipefail

if docker compose version > /dev/null 2>&1; then
    exec docker compose "$@"
fi
folder=${VENV:-$(dirname "$0")/../.venv}/compose
if [ ! -x "$folder/docker-compose" ]; then
    if ! { command -v apt-get && command -v dpkg-deb; } > /dev/null; then
        echo "no docker compose here, and no Debian to get it from" >&2
        exit 127
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/made"
    archive=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | awk 'NR == 1')
    echo "deb $archive trixie main" > "$work/sources.list"
    own=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists")
    own+=(-o "Dir::Cache=$work/cache")
    {
        apt-get "${own[@]}" update
        (cd "$work" && apt-get "${own[@]}" download docker-compose && dpkg-deb -x docker-compose_*.deb unpacked)
    } > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 127; }
    find "$work/unpacked" -type f -name docker-compose -path '*cli-plugins*' -exec cp {} "$work/made/" \;
    mv -T "$work/made" "$folder" 2> /dev/null || test -x "$folder/docker-compose"  # another may have been faster
    rm -rf "$work"  # the trap is not kept by what follows
fi
exec "$folder/docker-compose" "$@"
