#!/bin/bash
# Renews the server's certificate when fewer than 60 days of it remain; sessions go on, new ones see the new one. Daily.
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

before=$(<"$TLS_FOLDER/server.crt")
renew_certificate
[[ $(<"$TLS_FOLDER/server.crt") == "$before" ]] || reload_server
