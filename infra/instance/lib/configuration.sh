# PostgreSQL's and pgBackRest's configuration, made from what the instance is. Files of our own; the ones of the
# distribution and of initdb stay as they are.
# shellcheck shell=bash

# Sizes from the memory and CPUs that instance.env states; the templates name them.
# https://www.postgresql.org/docs/17/runtime-config-resource.html
# shellcheck disable=SC2034
tune() {
  local third_mib
  SHARED_BUFFERS_MIB=$((MEMORY_MIB / 4))
  EFFECTIVE_CACHE_MIB=$((MEMORY_MIB * 3 / 4))
  # A sort or hash per connection, a few at once in some: together they stay within a quarter of the memory.
  WORK_MEM_KIB=$((MEMORY_MIB * 1024 / 4 / MAX_CONNECTIONS / 2))
  ((WORK_MEM_KIB >= 4096)) || WORK_MEM_KIB=4096
  MAINTENANCE_MIB=$((MEMORY_MIB / 16))
  ((MAINTENANCE_MIB <= 2048)) || MAINTENANCE_MIB=2048
  # WAL of a quarter of an hour of loading, and never more than a third of a small volume.
  MAX_WAL_MIB=$((MEMORY_MIB))
  ((MAX_WAL_MIB >= 2048)) || MAX_WAL_MIB=2048
  ((MAX_WAL_MIB <= 16384)) || MAX_WAL_MIB=16384
  third_mib=$(($(df --output=size --block-size=1M "$DATA_MOUNT" | tail -1) / 3))
  ((MAX_WAL_MIB <= third_mib)) || MAX_WAL_MIB=$third_mib
  TIMESCALEDB_WORKERS=16
  # TimescaleDB's workers, PostgreSQL's parallel ones, and its launchers.
  # https://docs.timescale.com/self-hosted/latest/configuration/about-configuration/#workers
  MAX_WORKERS=$((TIMESCALEDB_WORKERS + VCPUS + 3))
  PARALLEL_PER_GATHER=$((VCPUS / 2))
  ((PARALLEL_PER_GATHER <= 4)) || PARALLEL_PER_GATHER=4
  BACKUP_PROCESSES=$((VCPUS < 4 ? VCPUS : 4))
}

write_configuration() {
  tune
  make_folder "$CONFIG_FOLDER" 0755 "$(id -un)"
  make_folder "$CONFIG_FOLDER/postgresql" 0755 "$(id -un)"
  make_folder "$CONFIG_FOLDER/pgbackrest" 0755 "$(id -un)"
  make_folder "$CONFIG_FOLDER/pgbackrest/conf.d" 0755 "$(id -un)"
  # setgid: the server's log files belong to the group that may read them.
  make_folder "$LOG_FOLDER" 2750 "$OS_USER" "$LOG_READERS"
  make_folder "$SPOOL_FOLDER" 0750 "$OS_USER"
  make_folder "$LOCK_FOLDER" 0770 "$OS_USER"
  make_folder "$SOCKET_FOLDER" 2775 "$OS_USER"

  render "$SCRIPTS/templates/postgresql.conf" DATA_FOLDER CONFIG_FOLDER TLS_FOLDER LOG_FOLDER SOCKET_FOLDER \
    LISTEN_ADDRESSES PORT PGBACKREST STANZA MAX_CONNECTIONS SHARED_BUFFERS_MIB EFFECTIVE_CACHE_MIB WORK_MEM_KIB \
    MAINTENANCE_MIB MAX_WAL_MIB MAX_WORKERS VCPUS PARALLEL_PER_GATHER TIMESCALEDB_WORKERS |
    install_file "$CONFIG_FOLDER/postgresql/postgresql.conf" 0644 "$(id -un)"
  render "$SCRIPTS/templates/pg_hba.conf" VPC_CIDR |
    install_file "$CONFIG_FOLDER/postgresql/pg_hba.conf" 0644 "$(id -un)"
  render "$SCRIPTS/templates/pg_ident.conf" OS_USER DATABASE_ADMIN_USER |
    install_file "$CONFIG_FOLDER/postgresql/pg_ident.conf" 0644 "$(id -un)"
  render "$SCRIPTS/templates/pgbackrest.conf" DATA_FOLDER SOCKET_FOLDER PORT DATABASE_ADMIN_USER STANZA LOG_FOLDER SPOOL_FOLDER \
    LOCK_FOLDER BACKUP_RETENTION_DAYS BACKUP_PROCESSES |
    install_file "$CONFIG_FOLDER/pgbackrest/pgbackrest.conf" 0644 "$(id -un)"
  render "$REPOSITORY_TEMPLATE" BACKUP_BUCKET AWS_REGION |
    install_file "$CONFIG_FOLDER/pgbackrest/conf.d/repository.conf" 0644 "$(id -un)"
}
