#!/bin/bash
# Backs up when it is time: a full backup each week, a differential one each day. Runs hourly, so that a failure is made
# good within the hour. An argument (full, diff, incr) asks for one now.
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

kind=${1:-}
case $kind in
  full | diff | incr) ;;
  "")
    times=$(backup_times) || die "s3://$BACKUP_BUCKET cannot be read"
    read -r newest full <<<"$times"
    kind=$(backup_due "$(date +%s)" "$newest" "$full")
    ;;
  *) die "unknown kind of backup $kind: give full, diff, incr, or none for what is due" ;;
esac
if [[ -z $kind ]]; then
  say "no backup is due"
  exit
fi
say "backing up: $kind"
backrest --type="$kind" backup || die "the $kind backup failed: see journalctl -u fleetledger-backup"
say "backed up"
