#!/bin/bash
# Runs on the database instance at each boot, after the lines that write instance.env: fetches our scripts from S3 and
# hands over to bootstrap.sh. The other scripts source it for how AWS is called: there is no AWS CLI on the machine.
set -Eeuo pipefail
shopt -s inherit_errexit

: "${INSTANCE_ENV:=/etc/fleetledger/instance.env}"
: "${SCRIPTS_FOLDER:=/opt/fleetledger/instance}"
: "${RUN_FOLDER:=/run/fleetledger}"
: "${BOOTSTRAP_LOG:=/var/log/fleetledger-bootstrap.log}"
: "${IMDS_URL:=http://169.254.169.254}"
# AWS_ENDPOINT_URL is set in tests only.

# Ends the script with a reason of one line, which the deployment shows when it waits for this script.
die() {
  [[ -z ${REASON_FILE:-} ]] || printf '%s\n' "$*" >"$REASON_FILE"
  printf 'error: %s\n' "$*" >&2
  exit 1
}

say() { printf '%(%FT%TZ)T %s\n' -1 "$*"; }

# Reads NAME=value lines, quoted or not. They are not shell: a URL holds characters that the shell would act upon.
load_environment() {
  local line name value
  [[ -r $INSTANCE_ENV ]] || die "$INSTANCE_ENV is not readable: run as root on the database instance"
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^[A-Z_]+= ]] || continue
    name=${line%%=*} value=${line#*=}
    if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
    export "$name=$value"
  done <"$INSTANCE_ENV"
}

# Whatever must not show in the list of processes comes as curl configuration on standard input.
# https://curl.se/docs/manpage.html#-K
quiet_curl() {
  curl --silent --show-error --fail --noproxy '*' --connect-timeout 10 --retry 5 --retry-connrefused --config - "$@"
}

# The instance's metadata below a path, by IMDSv2.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
imds() {
  local token
  token=$(quiet_curl --max-time 30 --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 300' \
    "$IMDS_URL/latest/api/token" </dev/null) || return 1
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$token" |
    quiet_curl --max-time 30 "$IMDS_URL/latest/meta-data/$1"
}

# The instance role's credentials as curl configuration.
role_credentials() {
  local role
  role=$(imds iam/security-credentials/) || return 1
  imds "iam/security-credentials/$role" | python3 -c '
import json, sys
found = json.load(sys.stdin)
print("user = \"{AccessKeyId}:{SecretAccessKey}\"".format(**found))
print("header = \"X-Amz-Security-Token: {Token}\"".format(**found))
'
}

# A signed request: aws_request SERVICE curl-arguments...
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
aws_request() {
  local service=$1 credentials
  shift
  credentials=$(role_credentials) || die "the instance has no role credentials: is an instance profile attached?"
  quiet_curl --aws-sigv4 "aws:amz:$AWS_REGION:$service" "$@" <<<"$credentials"
}

# s3_get BUCKET KEY FILE [curl-arguments...]. Keys hold letters, digits, '.', '_', '-' and '/', so that nothing needs escaping.
s3_get() {
  # S3 wants the sum of the body, here an empty one, and curl before 8.1 does not say it by itself.
  # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
  local empty=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  local address="https://$1.s3.$AWS_REGION.amazonaws.com/$2" file=$3
  [[ -n ${AWS_ENDPOINT_URL:-} ]] && address="$AWS_ENDPOINT_URL/$1/$2"
  shift 3
  aws_request s3 --max-time 900 --header "x-amz-content-sha256: $empty" --output "$file" "$@" "$address"
}

# Tells CloudFormation how it went: signal SUCCESS|FAILURE REASON. On a later boot its URL has expired: no harm.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-waitcondition.html
signal() {
  local unique body
  [[ -n ${READY_URL:-} ]] || return 0
  unique=$(imds instance-id) || unique=instance
  body=$(python3 -c '
import json, sys
status, reason, unique = sys.argv[1:]
print(json.dumps({"Status": status, "Reason": reason[:1000], "UniqueId": unique, "Data": reason[:1000]}))
' "$1" "$2" "$unique")
  if ! printf 'url = "%s"\nheader = "Content-Type:"\n' "$READY_URL" |
    quiet_curl --max-time 60 --request PUT --data-binary "$body"; then
    say "the deployment was not told ($1): it has been told before, or waits no longer"
  fi
}

# From here on a failure is signalled, with its reason; success is signalled by who reaches the end.
signal_failures() {
  REASON_FILE=$RUN_FOLDER/reason
  mkdir -p "$RUN_FOLDER"
  rm -f "$REASON_FILE"
  trap signal_failure EXIT
  trap 'note_failure "$LINENO" "$BASH_COMMAND"' ERR
}

signal_failure() {
  local status=$?
  local reason="the script ended with status $status"
  if ((status != 0)); then
    [[ -s $REASON_FILE ]] && reason=$(<"$REASON_FILE")
    say "failed: $reason"
    signal FAILURE "$reason"
  fi
}

# What failed where nobody called die. BASH_COMMAND holds names of variables, not their values.
note_failure() {
  [[ -s $REASON_FILE ]] || printf '%s, line %s: %s\n' "${BASH_SOURCE[1]##*/}" "$1" "${2%%$'\n'*}" >"$REASON_FILE"
}

fetch_scripts() {
  local new="$SCRIPTS_FOLDER.new"
  rm -rf "$new"
  mkdir -p "$new"
  # Again for a minute or so whatever the answer: rights that are as new as the instance may not be known everywhere yet.
  s3_get "$SCRIPTS_BUCKET" "$SCRIPTS_KEY" "$new/scripts.zip" --retry-all-errors --retry "${FETCH_RETRIES:-6}" ||
    die "cannot fetch s3://$SCRIPTS_BUCKET/$SCRIPTS_KEY: check the S3 endpoint's and the instance role's policies"
  python3 -m zipfile -e "$new/scripts.zip" "$new" || die "s3://$SCRIPTS_BUCKET/$SCRIPTS_KEY is no zip archive"
  rm "$new/scripts.zip"
  rm -rf "$SCRIPTS_FOLDER"
  mv "$new" "$SCRIPTS_FOLDER"
}

start() {
  umask 077
  exec > >(tee -a "$BOOTSTRAP_LOG") 2>&1
  signal_failures
  load_environment
  say "fetching s3://$SCRIPTS_BUCKET/$SCRIPTS_KEY"
  fetch_scripts
  trap - EXIT ERR
  exec bash "$SCRIPTS_FOLDER/bootstrap.sh"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then start; fi
