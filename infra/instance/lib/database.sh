# The cluster on the data volume: made, restored or found; started; its roles and its database.
# shellcheck shell=bash

# psql as the superuser by the local socket: sql DATABASE psql-arguments...
sql() {
  local database=$1
  shift
  as_postgres "$BIN_FOLDER/psql" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --no-align --tuples-only \
    --host="$SOCKET_FOLDER" --port="$PORT" --username="$DATABASE_ADMIN_USER" --dbname="$database" "$@"
}

database_exists() { [[ -s $DATA_FOLDER/global/pg_control ]]; }

server_answers() { sql postgres --command='SELECT 1' >/dev/null 2>&1; }

server_runs() { [[ -e $DATA_FOLDER/postmaster.pid ]] && server_answers; }

# Makes an empty cluster beside its place and renames it, so that a half-made one is never taken for one.
make_cluster() {
  local new="$DATA_FOLDER.new"
  say "making an empty database in $DATA_FOLDER"
  rm -rf "$new"
  make_folder "$new" 0700 "$OS_USER"
  as_postgres "$BIN_FOLDER/initdb" --pgdata="$new" --username="$DATABASE_ADMIN_USER" --data-checksums --encoding=UTF8 \
    --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 \
    --auth-local=peer --auth-host=scram-sha-256 --no-instructions >/dev/null || die "initdb failed: see $BOOTSTRAP_LOG"
  mv "$new" "$DATA_FOLDER"
}

# What the data folder needs before the server can start: nothing, the newest backup, or an empty cluster. An empty
# volume beside a bucket of backups is a database that was lost, and comes back by itself.
provide_cluster() {
  local times newest resume=()
  database_exists && return
  make_folder "${DATA_FOLDER%/*}" 0755 "$OS_USER"
  times=$(backup_times) ||
    die "no database on the volume, and the backups cannot be listed: check the S3 endpoint and s3://$BACKUP_BUCKET"
  read -r newest _ <<<"$times"
  if [[ -e $DATA_FOLDER/backup.manifest ]] && ((newest > 0)); then
    # A restore that did not come to its end: there need not be room for another.
    # https://pgbackrest.org/command.html#command-restore/category-command/option-delta
    resume=(--delta)
  elif [[ -d $DATA_FOLDER ]]; then
    mv "$DATA_FOLDER" "$DATA_FOLDER.incomplete-$(date -u +%Y%m%dT%H%M%SZ)"
    say "a data folder without a database was put aside"
  fi
  if ((newest > 0)); then
    say "no database on the volume, but backups (newest $(date -u -d "@$newest" +%FT%TZ)): restoring all that was archived"
    restore_cluster "$DATA_FOLDER" --type=default "${resume[@]}" || die "the backup cannot be restored: see $BOOTSTRAP_LOG and run restore.sh"
    recover "$DATA_FOLDER" || die "the restored database does not start: see $BOOTSTRAP_LOG"
    stop_recovered "$DATA_FOLDER"
  else
    make_cluster
  fi
}

# An instance numbers its users in the order in which packages come, and the volume remembers its last one's numbers.
own_files() {
  local folder=${DATA_FOLDER%/*}
  [[ -d $folder && $(stat --format=%u "$folder") != "$(id -u "$OS_USER")" ]] || return 0
  say "the volume's files are given to $OS_USER of this instance"
  # The folder itself comes last, so that this begins anew when it was interrupted.
  chown --recursive "$OS_USER:$(id -gn "$OS_USER")" "$folder"
}

# Starts the server, or has a running one take the configuration, with a restart only when something asks for it.
start_server() {
  local wants
  "$SYSTEMCTL" enable --quiet "$DATABASE_UNIT"
  if server_runs; then
    reload_server
    sleep 1 # for the postmaster to have read its files
    wants=$(sql postgres --command="SELECT count(*) FROM pg_settings WHERE pending_restart")
    wants+=$("$BIN_FOLDER/postgres" --version | grep -qF "$(sql postgres --command='SHOW server_version')" || echo upgraded)
    [[ $wants == 0 ]] && return
    say "restarting PostgreSQL: its settings or its programs have changed"
    "$SYSTEMCTL" restart "$DATABASE_UNIT" || die "PostgreSQL does not start: see $LOG_FOLDER and journalctl -u $DATABASE_UNIT"
  else
    say "starting PostgreSQL"
    "$SYSTEMCTL" start "$DATABASE_UNIT" || die "PostgreSQL does not start: see $LOG_FOLDER and journalctl -u $DATABASE_UNIT"
  fi
  wait_for 60 server_answers || die "PostgreSQL started but does not answer: see $LOG_FOLDER"
}

reload_server() { sql postgres --command='SELECT pg_reload_conf()' >/dev/null; }

# The database and its extension. Its owner, the admin, is the cluster's superuser: migrations make roles and extensions.
prepare_database() {
  sql postgres --set=admin="$DATABASE_ADMIN_USER" --set=name="$DATABASE_NAME" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'admin')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SQL
  update_extension
  sql "$DATABASE_NAME" <<'SQL'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS timescaledb;
SQL
}

# Brings the extension to the version of the packages, which hold the library of no other: until then every query fails.
# Also that of a database which was restored from before. https://docs.timescale.com/self-hosted/latest/upgrades/
update_extension() {
  local installed newest
  # Looking with the extension loaded would need the library that is not there any more.
  installed=$(PGOPTIONS='-c timescaledb.disable_load=on' sql "$DATABASE_NAME" \
    --command="SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'timescaledb'")
  newest=${installed#*|} installed=${installed%|*}
  [[ -n $installed && $installed != "$newest" ]] || return 0
  say "updating the extension timescaledb from $installed to $newest"
  # The first command of its session.
  sql "$DATABASE_NAME" --command='ALTER EXTENSION timescaledb UPDATE' ||
    die "the extension timescaledb cannot be updated from $installed to $newest: see $LOG_FOLDER"
}

# Gives a secret's user that secret's password, if the role exists and has another: set_password ARN
set_password() {
  local secret role statement
  secret=$(secret_value "$1") || die "secret $1 cannot be read: check the instance role's policy"
  role=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["username"])' <<<"$secret")
  [[ $(sql postgres --set=role="$role" <<<"SELECT count(*) FROM pg_roles WHERE rolname = :'role'") == 1 ]] || return 0
  statement=$({
    printf '%s\n' "$secret"
    sql postgres --set=role="$role" <<<"SELECT rolpassword FROM pg_authid WHERE rolname = :'role'"
  } | password_sql) || die "secret $1 holds no usable user name and password"
  [[ -n $statement ]] || return 0
  sql postgres <<<"$statement"
  say "gave $role the password of its secret"
}
