#!/usr/bin/env bash
# Put a headless Chromium at FOLDER/chromium, out of a package of the npm registry: for the tests of the pages, where
# no browser is installed. x86-64 Linux; needs npm and node; ten seconds, 68 MB over the network.
set -euo pipefail
folder=${1:?usage: scripts/get_browser.sh FOLDER}
package=@sparticuz/chromium@147.0.0

test ! -x "$folder/chromium" || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent --no-update-notifier "$package" > /dev/null
tar xzf ./*.tgz
mkdir made
for part in chromium al2023.tar; do
    node -e 'const fs = require("fs"), zlib = require("zlib"); const [from, to] = process.argv.slice(1);
        fs.createReadStream(from).pipe(zlib.createBrotliDecompress()).pipe(fs.createWriteStream(to));' \
        "package/bin/$part.br" "made/$part"
done
tar xf made/al2023.tar -C made  # lib/: libraries that a bare system lacks
rm made/al2023.tar
chmod +x made/chromium
cd - > /dev/null
mkdir -p "$(dirname "$folder")"
mv -T "$work/made" "$folder" 2> /dev/null || test -x "$folder/chromium"  # another may have been faster
