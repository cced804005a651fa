#!/bin/bash
# Makes the instance the database: its volume, its software, its server, its backups. Each step looks before it acts, so
# that it may run at every boot, on a new instance with an old volume as on an old one. start.sh runs it; an operator may.
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

# The part that needs no systemd, no volume and no package manager of its own: what the tests run for real.
provide_database() {
  make_authority
  renew_certificate
  write_configuration
  write_units
  own_files
  provide_cluster
  start_server
  prepare_database
  set_password "$ADMIN_SECRET_ARN"
  set_password "$LOADER_SECRET_ARN"
  publish_authority "$ADMIN_SECRET_ARN"
  publish_authority "$LOADER_SECRET_ARN"
  prepare_backups
}

main() {
  signal_failures
  case ${1:-all} in
    all)
      prepare_volume
      install_packages
      provide_database
      start_agent
      start_timers
      ;;
    database) provide_database ;;
    *) die "unknown part $1: give none, or 'database'" ;;
  esac
  trap - EXIT ERR
  say "the database is ready"
  signal SUCCESS "the database is ready"
}

main "$@"
