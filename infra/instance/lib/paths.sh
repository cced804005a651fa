# Where everything is on the instance. Each may be given from outside, which is how the tests run the same functions.
# Sourced by every script; everything here is used elsewhere.
# shellcheck shell=bash disable=SC2034

: "${POSTGRES_VERSION:=17}"
: "${DATA_MOUNT:=/var/lib/postgresql}"
: "${DATA_FOLDER:=$DATA_MOUNT/$POSTGRES_VERSION/data}"
: "${TLS_FOLDER:=$DATA_MOUNT/tls}"
: "${DRILL_FOLDER:=$DATA_MOUNT/drill}"
: "${BIN_FOLDER:=/usr/lib/postgresql/$POSTGRES_VERSION/bin}"
: "${PGBACKREST:=/usr/bin/pgbackrest}"
: "${CONFIG_FOLDER:=/etc/fleetledger}"
: "${LOG_FOLDER:=/var/log/fleetledger}"
: "${SOCKET_FOLDER:=/run/postgresql}"
: "${SPOOL_FOLDER:=/var/spool/pgbackrest}"
: "${LOCK_FOLDER:=/run/fleetledger-pgbackrest}"
: "${UNIT_FOLDER:=/etc/systemd/system}"
: "${STATE_FOLDER:=/var/lib/fleetledger}"
: "${DEVICE_FOLDER:=/dev/disk/by-id}"
: "${FSTAB:=/etc/fstab}"
: "${SYSTEMCTL:=systemctl}"
: "${OS_USER:=postgres}"
: "${LOG_READERS:=cwagent}"
: "${AGENT_CTL:=/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl}"
: "${LISTEN_ADDRESSES:=*}"
: "${PORT:=5432}"
: "${STATSD_PORT:=8125}"
: "${REPOSITORY_TEMPLATE:=$SCRIPTS/templates/repository-s3.conf}"

STANZA=main
DATABASE_UNIT=fleetledger-database.service
