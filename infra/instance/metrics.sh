#!/bin/bash
# Tells the CloudWatch agent, by StatsD, how old the newest complete backup is; without any, how old the database is.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Agent-custom-metrics-statsd.html
set -Eeuo pipefail

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=lib/all.sh
source "$SCRIPTS/lib/all.sh"

times=$(backup_times) || die "s3://$BACKUP_BUCKET cannot be read"
read -r newest _ <<<"$times"
((newest > 0)) || newest=$(stat --format=%Y "$DATA_FOLDER/PG_VERSION")
printf 'BackupAgeSeconds:%d|g|#service:%s' "$(($(date +%s) - newest))" "$METRICS_SERVICE" \
  >"/dev/udp/127.0.0.1/$STATSD_PORT"
