#!/bin/sh
# Resolves the .in files to .lock files: every version and hash, for every platform, without any index address.
# Usage: lock.sh UV
set -eu
cd "$(dirname "$0")"
uv=$1
case $uv in /*) ;; *) uv=../$uv ;; esac
for name in dev lambda emulator; do
    case $name in lambda) constraints="--constraints dev.lock" ;; *) constraints= ;; esac
    # shellcheck disable=SC2086 # empty or two words
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links $constraints "$name.in" --output-file "$name.lock"
done
