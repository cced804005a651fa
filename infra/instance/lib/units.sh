# systemd units and the CloudWatch agent.
# shellcheck shell=bash

TIMERS=(fleetledger-backup fleetledger-metrics fleetledger-certificate)

write_units() {
  local unit
  render "$SCRIPTS/templates/$DATABASE_UNIT" DATA_MOUNT OS_USER BIN_FOLDER DATA_FOLDER CONFIG_FOLDER |
    install_file "$UNIT_FOLDER/$DATABASE_UNIT" 0644 "$(id -un)"
  for unit in "${TIMERS[@]}"; do
    render "$SCRIPTS/templates/$unit.service" SCRIPTS DATA_MOUNT |
      install_file "$UNIT_FOLDER/$unit.service" 0644 "$(id -un)"
    render "$SCRIPTS/templates/$unit.timer" | install_file "$UNIT_FOLDER/$unit.timer" 0644 "$(id -un)"
  done
  "$SYSTEMCTL" daemon-reload
}

start_timers() { "$SYSTEMCTL" enable --quiet --now "${TIMERS[@]/%/.timer}"; }

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/install-CloudWatch-Agent-commandline-fleet.html
start_agent() {
  # The agent reads this log as its own user.
  touch "$BOOTSTRAP_LOG"
  chgrp "$LOG_READERS" "$BOOTSTRAP_LOG"
  chmod 0640 "$BOOTSTRAP_LOG"
  render "$SCRIPTS/templates/cloudwatch-agent.json" METRICS_SERVICE DATA_MOUNT LOG_FOLDER LOG_GROUP LOG_READERS \
    STATSD_PORT BOOTSTRAP_LOG | install_file "$CONFIG_FOLDER/cloudwatch-agent.json" 0644 "$(id -un)"
  "$AGENT_CTL" -a fetch-config -m ec2 -s -c "file:$CONFIG_FOLDER/cloudwatch-agent.json" ||
    die "the CloudWatch agent does not start: see $BOOTSTRAP_LOG"
}
