#!/bin/bash
# Puts the database back to a time, or to all that was archived: restore.sh TIME|latest --yes
# The data folder of now is kept beside the new one, under the name that is printed; nothing is deleted.
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

usage="usage: restore.sh TIME|latest --yes, with a TIME such as 2026-03-01T12:30:00Z"
[[ $# -ge 1 ]] || die "$usage"
target="" upto=(--type=default)
if [[ $1 != latest ]]; then
  target=$(backup_target "$1")
  upto=(--type=time "--target=$target" --target-action=promote)
fi
[[ ${2:-} == --yes ]] ||
  die "this replaces the database by its state of ${target:-the last archived change}: run it again with --yes at the end"

kept="$DATA_FOLDER.before-$(date -u +%Y%m%dT%H%M%SZ)"

# What was there comes back when the restore did not work.
put_back() {
  say "putting the database back as it was"
  stop_recovered "$DATA_FOLDER"
  rm -rf "$DATA_FOLDER"
  if [[ -d $kept ]]; then
    mv "$kept" "$DATA_FOLDER"
    "$SYSTEMCTL" start "$DATABASE_UNIT" fleetledger-backup.timer
  fi
  die "$1; the database is as it was"
}

started=$SECONDS
backup_times >/dev/null || die "the backups cannot be listed: check the S3 endpoint and s3://$BACKUP_BUCKET"
require_room "$DATA_MOUNT" "a restore"
write_configuration
if server_runs; then archive_all; fi
"$SYSTEMCTL" stop fleetledger-backup.timer "$DATABASE_UNIT"
if [[ -d $DATA_FOLDER ]]; then
  mv "$DATA_FOLDER" "$kept"
  say "what was there is kept in $kept: remove it once you need it no more"
fi

say "restoring to ${target:-the last archived change}"
restore_cluster "$DATA_FOLDER" "${upto[@]}" || put_back "pgBackRest could not restore"
recover "$DATA_FOLDER" || put_back "the restored database did not reach ${target:-the end of the archive}"
stop_recovered "$DATA_FOLDER"
start_server
update_extension
# Passwords of that time may have been changed since.
set_password "$ADMIN_SECRET_ARN"
set_password "$LOADER_SECRET_ARN"
prepare_backups
"$SYSTEMCTL" start fleetledger-backup.timer
say "restored in $((SECONDS - started)) s"
say "next: fleet replay --from TIME, for what was loaded since; it stores nothing twice"
