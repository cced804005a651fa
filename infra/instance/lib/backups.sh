# pgBackRest: the stanza, what is there, restoring.
# shellcheck shell=bash

backrest() {
  as_postgres "$PGBACKREST" --config-path="$CONFIG_FOLDER/pgbackrest" --stanza="$STANZA" "$@"
}

# Prints when the newest backup and the newest full backup ended, in epoch seconds; 0 for none. Fails when the
# repository cannot be read: that is not the same as "no backup".
backup_times() {
  backrest --output=json info | python3 -c '
import json, sys
(stanza,) = json.load(sys.stdin) or [{"status": {"code": 1}}]
if stanza["status"]["code"] not in (0, 1, 2, 3):  # fine; no stanza path, no backup, no stanza data
    sys.exit("pgBackRest: " + stanza["status"]["message"])
ends = [(backup["timestamp"]["stop"], backup["type"]) for backup in stanza.get("backup", [])]
print(max((end for end, _ in ends), default=0), max((end for end, kind in ends if kind == "full"), default=0))
'
}

# Prints the name of the last WAL segment in the archive.
archive_end() {
  backrest --output=json info | python3 -c '
import json, sys
(stanza,) = json.load(sys.stdin)
print(stanza["archive"][-1]["max"])
'
}

# An hour less than a day or a week: the timer comes by each hour, and its backup must not move on by one each time.
FULL_AFTER_SECONDS=$((7 * 86400 - 3600))
DIFF_AFTER_SECONDS=$((86400 - 3600))

# Prints the kind of backup that is due at a time, or nothing: backup_due NOW NEWEST FULL, in epoch seconds
backup_due() {
  if (($1 - $3 >= FULL_AFTER_SECONDS)); then
    echo full
  elif (($1 - $2 >= DIFF_AFTER_SECONDS)); then
    echo diff
  fi
}

# Makes the repository ready for this cluster and proves that a WAL segment arrives there.
prepare_backups() {
  backrest stanza-create || die "s3://$BACKUP_BUCKET holds another database's archive, or cannot be written: see $BOOTSTRAP_LOG"
  backrest check || die "WAL does not reach s3://$BACKUP_BUCKET: see $BOOTSTRAP_LOG"
}

# A time as pgBackRest takes it, UTC: backup_target TIME
backup_target() {
  local time
  time=$(date -u -d "$1" '+%F %T.%6N+00' 2>/dev/null) || die "$1 is no time: give one such as 2026-03-01T12:30:00Z"
  printf '%s' "$time"
}

# Sees to it that all that was committed is archived, and a commit besides: recovery stops at a time only where a later
# commit tells that the time has passed, and an idle database has none.
archive_all() {
  sql postgres --command='SELECT pg_current_xact_id()' >/dev/null
  backrest check || die "WAL does not reach s3://$BACKUP_BUCKET: see the server's log in $LOG_FOLDER"
}

# Restores files into a folder: restore_cluster FOLDER pgbackrest-arguments..., which name what recover is to replay up to.
restore_cluster() {
  local folder=$1 argument
  local fetch=("$PGBACKREST" --config-path="$CONFIG_FOLDER/pgbackrest" --stanza="$STANZA" --pg1-path="$folder")
  shift
  for argument in "$@"; do
    case $argument in --spool-path=* | --lock-path=*) fetch+=("$argument") ;; esac
  done
  make_folder "$folder" 0700 "$OS_USER"
  # 1 is "not in the archive". Any other failure up to 125 PostgreSQL would take for that, and end the recovery too early.
  # https://www.postgresql.org/docs/17/runtime-config-wal.html#GUC-RESTORE-COMMAND
  backrest --pg1-path="$folder" "$@" \
    --recovery-option="restore_command=${fetch[*]} archive-get %f \"%p\" || { [ \$? -eq 1 ] && exit 1; exit 255; }" restore
}

# Starts a restored cluster by itself, on a socket within its folder and on no network, and returns once it has replayed
# what it was to and takes writes: recover FOLDER postgres-arguments...
recover() {
  local folder=$1 server
  shift
  as_postgres "$BIN_FOLDER/postgres" -D "$folder" -c config_file="$CONFIG_FOLDER/postgresql/postgresql.conf" \
    -c listen_addresses= -c unix_socket_directories="$folder" -c logging_collector=off "$@" \
    </dev/null >"$RUN_FOLDER/recovery.log" 2>&1 &
  server=$!
  until recovered "$folder"; do
    if ! kill -0 "$server" 2>/dev/null; then
      wait "$server" || true
      grep -E 'FATAL|PANIC|ERROR' "$RUN_FOLDER/recovery.log" | tail -3 >&2 || tail -3 "$RUN_FOLDER/recovery.log" >&2
      return 1
    fi
    sleep 0.2
  done
}

recovered() {
  [[ $(SOCKET_FOLDER=$1 sql postgres --command='SELECT pg_is_in_recovery()' 2>/dev/null) == f ]]
}

# Ends what recover started, orderly, and waits for it: stop_recovered FOLDER
stop_recovered() {
  local pid
  [[ -s $1/postmaster.pid ]] || return 0
  pid=$(head -1 "$1/postmaster.pid")
  # The number that a killed server left may be another process's by now; a server works in its data folder.
  [[ /proc/$pid/cwd -ef $1 ]] || return 0
  kill -INT "$pid" 2>/dev/null || return 0
  wait_for 300 process_ended "$pid" || kill -QUIT "$pid"
}

process_ended() { ! kill -0 "$1" 2>/dev/null; }

# Fails unless FOLDER's file system has room for one more cluster: require_room FOLDER WHAT
require_room() {
  local used free
  # du fails where a file went away meanwhile, as the server's do; what it counted is good.
  used=$(du --summarize --block-size=1M "$DATA_FOLDER" 2>/dev/null | cut -f1) || true
  used=${used:-0}
  free=$(df --output=avail --block-size=1M "$1" | tail -1)
  ((free > used + used / 10 + 256)) ||
    die "$2 needs room for a second copy: the database has $used MiB and $1 has $((free)) MiB free; enlarge the volume (database_volume_gib)"
}
