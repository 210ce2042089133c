#!/usr/bin/env bash
# Certificates for TLS between clients and reward services, from an authority of one's own:
#
#   scripts/make_certificates.sh FOLDER ca                 ca.pem, ca.key: once; keep ca.key off the servers
#   scripts/make_certificates.sh FOLDER server HOST...     server.pem, server.key: for the names and addresses it has
#   scripts/make_certificates.sh FOLDER client NAME        NAME.pem, NAME.key: for mutual TLS; NAME is whom limits know
#
# DAYS: how long they are good for; 90, and 3650 for the authority. Existing files are replaced by rename, one at a time.
# TO: a folder that containers mount; the last two go there instead, with ca.pem, readable for whoever gets into it.
set -euo pipefail
umask 077
usage() { sed -n '2,9p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
folder=$1 kind=$2
shift 2
curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
mkdir -p "$folder"
[ -z "${TO:-}" ] || (umask 022 && mkdir -p "$TO")
to=$(cd "${TO:-$folder}" && pwd)
cd "$folder"
work=$(mktemp -d "$to/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT

sign() {  # NAME COMMON_NAME EXTENSIONS
    openssl req "${curve[@]}" -keyout "$work/$1.key" -out "$work/$1.csr" -subj "/CN=$2" 2> /dev/null
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n%b\n' "$3" > "$work/extensions"
    openssl x509 -req -in "$work/$1.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days "${DAYS:-90}" -extfile "$work/extensions" -out "$work/$1.pem" 2> /dev/null
    if [ "$PWD" != "$to" ]; then  # a container's user is another one, and must be able to read what it finds at once
        cp ca.pem "$work"
        chmod 444 "$work/$1.key" "$work/$1.pem" "$work/ca.pem"
        mv "$work/ca.pem" "$to"
    fi
    mv "$work/$1.key" "$work/$1.pem" "$to"
}

case $kind in
    ca)
        openssl req -x509 "${curve[@]}" -keyout "$work/ca.key" -out "$work/ca.pem" -days "${DAYS:-3650}" \
            -subj "/CN=Assay authority" -addext "keyUsage=critical,keyCertSign,cRLSign" 2> /dev/null
        mv "$work/ca.key" "$work/ca.pem" .
        ;;
    server)
        [ $# -ge 1 ] || usage
        names=
        for host in "$@"; do
            case $host in
                *[!0-9.]*) case $host in *:*) names+=,IP:$host ;; *) names+=,DNS:$host ;; esac ;;
                *) names+=,IP:$host ;;
            esac
        done
        sign server "$1" "extendedKeyUsage=serverAuth\nsubjectAltName=${names#,}"
        ;;
    client)
        [ $# -eq 1 ] || usage
        case $1 in ca | server | *[!A-Za-z0-9._-]*) usage ;; esac
        sign "$1" "$1" "extendedKeyUsage=clientAuth"
        ;;
    *) usage ;;
esac
chmod 644 ./*.pem
