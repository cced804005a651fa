#!/bin/bash
# Proves the backups by restoring one: drill.sh [TIME]
# Restores into a scratch folder and starts it on a socket of its own, while the database goes on. Without TIME it
# restores all that was archived when it began, as if the volume had been lost at that moment, and measures
#   RPO: how many seconds of the ledger would have been lost,
#   RTO: how long until the restored database took writes.
# With TIME it restores to that time (point-in-time recovery). The last line is the verdict; the exit code is 0 for met.
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

RPO_SECONDS=300
RTO_SECONDS=1800
# Objects whose loading had not ended when the archive did may lack though their time is earlier.
SETTLED_SECONDS=60

scratch=$DRILL_FOLDER/data

clean_up() {
  stop_recovered "$scratch"
  rm -rf "$DRILL_FOLDER"
}

restored_sql() { SOCKET_FOLDER=$scratch sql "$DATABASE_NAME" "$@"; }

[[ $# -le 1 ]] || die "usage: drill.sh [TIME]"
target=""
[[ $# -eq 0 ]] || target=$(backup_target "$1")
server_runs || die "the database does not run: a drill compares the restored database with it"
[[ $(sql "$DATABASE_NAME" --command="SELECT to_regclass('ingest.objects') IS NOT NULL") == t ]] ||
  die "$DATABASE_NAME has no ledger yet: migrate the schema first"
clean_up # after a drill that was killed
require_room "$DATA_MOUNT" "a drill"
trap clean_up EXIT

if [[ -n $target ]]; then
  [[ $(date -u +%s) -ge $(date -u -d "$target" +%s) ]] || die "$target is still to come: give a time that has passed"
  moment=$target
  upto=(--type=time "--target=$target")
else
  # Where the archive ends now; what arrives there while the restore works must not count.
  moment=$(date -u +%FT%T.%6NZ)
  segment=$(archive_end) || die "s3://$BACKUP_BUCKET holds no archived WAL, or cannot be read"
  end=$(sql postgres --set=segment="$segment" <<<"
    SELECT '0/0'::pg_lsn + (segment_number + 1) * pg_size_bytes(current_setting('wal_segment_size'))
      FROM pg_split_walfile_name(:'segment')")
  upto=(--type=lsn "--target=$end" --target-exclusive)
fi
archive_all
started=$SECONDS
say "restoring to ${target:-where the archive ended at $moment}"
make_folder "$DRILL_FOLDER" 0700 "$OS_USER"
# With a spool and locks of its own: in the database's, restoring and fetching WAL would hold up its archiving.
restore_cluster "$scratch" "${upto[@]}" --target-action=promote \
  --spool-path="$DRILL_FOLDER/spool" --lock-path="$DRILL_FOLDER/lock" || die "pgBackRest could not restore"
# Small, silent, and without the jobs of the database that it is a copy of.
recover "$scratch" -c archive_mode=off -c shared_buffers=128MB -c timescaledb.max_background_workers=0 ||
  die "the restored database did not reach ${target:-where the archive ended}"
SOCKET_FOLDER=$scratch update_extension
rto=$((SECONDS - started))

# Counting reads every page of both tables, and with it every checksum.
read -r readings objects newest < <(restored_sql --command="
  SELECT (SELECT count(*) FROM telemetry), count(*),
         coalesce(to_char(max(loaded_at), 'YYYY-MM-DD\"T\"HH24:MI:SS.USOF'), '-infinity')
    FROM ingest.objects" | tr '|' ' ') || die "the restored tables cannot be read"
# What the living database has in its ledger up to that moment, and the restored one has not.
read -r rpo lost < <(sql "$DATABASE_NAME" --set=moment="$moment" --set=newest="$newest" \
  --set=settled="$SETTLED_SECONDS" --set=objects="$objects" <<'SQL'
SELECT CASE WHEN count(*) FILTER (WHERE loaded_at > :'newest') = 0 THEN 0
            ELSE ceil(extract(epoch FROM :'moment'::timestamptz
                 - greatest(:'newest'::timestamptz, min(loaded_at)))) END || ' ' ||
       greatest(0, count(*) FILTER (WHERE loaded_at < :'newest'::timestamptz - make_interval(secs => :settled)) - :objects)
  FROM ingest.objects
 WHERE loaded_at <= :'moment';
SQL
)
say "restored: $readings readings of $objects objects, the newest loaded at $newest"

verdict=met
((rpo <= RPO_SECONDS && rto <= RTO_SECONDS && lost == 0)) || verdict=MISSED
printf 'drill %s: RPO %s s (limit %s), RTO %s s (limit %s), %s objects missing, %s readings restored\n' \
  "$verdict" "$rpo" "$RPO_SECONDS" "$rto" "$RTO_SECONDS" "$lost" "$readings"
[[ $verdict == met ]]
