#!/bin/bash
# Collects what the instance installs: collect_packages.sh FOLDER AGENT.deb
# Run it on any Ubuntu 24.04 arm64 machine on which PostgreSQL's and Timescale's apt repositories are configured as their
# manuals say; AGENT.deb is the CloudWatch agent, downloaded as its manual says. Then upload the folder to the packages
# bucket: aws s3 sync FOLDER s3://BUCKET --delete
set -Eeuo pipefail

NAMES=(postgresql-17 timescaledb-2-postgresql-17 pgbackrest)

stop() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Prints what the names need on a machine that has nothing, as name=version: the outcome does not depend on this machine.
closure() {
  local state
  state=$(mktemp -d)
  apt-get -qq -o Dir::State::status=/dev/null -o Dir::Cache::archives="$state" -o APT::Install-Recommends=false \
    --print-uris install "$@" |
    sed -nE "s/^'[^']*' ([^_ ]+)_([^_ ]+)_[^_ ]+\.deb .*/\1=\2/p" | sed 's/%3a/:/g'
  rm -rf "$state"
}

# Plain names: they become keys in S3, which then need no escaping.
plain_names() {
  local file plain
  for file in "$1"/*.deb; do
    plain=${file##*/}
    plain=${plain//[^A-Za-z0-9._-]/-}
    [[ ${file##*/} == "$plain" ]] || mv "$file" "$1/$plain"
  done
}

[[ $# -eq 2 ]] || stop "usage: collect_packages.sh FOLDER AGENT.deb"
folder=$1 agent=$2
# shellcheck source=/dev/null
source "${OS_RELEASE:-/etc/os-release}"
[[ ${ID:-} == ubuntu && ${VERSION_ID:-} == 24.04 && $(dpkg --print-architecture) == arm64 ]] ||
  stop "this machine is ${ID:-unknown} ${VERSION_ID:-} $(dpkg --print-architecture): run it on Ubuntu 24.04 arm64"
[[ $(dpkg-deb --field "$agent" Package 2>/dev/null) == amazon-cloudwatch-agent ]] ||
  stop "$agent is not the CloudWatch agent's package: download it as the CloudWatch manual says, for arm64"
mkdir -p "$folder"
[[ -z $(ls -A "$folder") ]] || stop "$folder is not empty: give a new folder"
for name in "${NAMES[@]}"; do
  apt-cache show "$name" >/dev/null 2>&1 ||
    stop "apt knows no $name: configure PostgreSQL's and Timescale's apt repositories as their manuals say"
done

mapfile -t packages < <(closure "${NAMES[@]}")
((${#packages[@]} > 0)) || stop "apt cannot resolve ${NAMES[*]}: try apt-get update"
printf 'downloading %s packages\n' "${#packages[@]}"
cp "$agent" "$folder/"
(cd "$folder" && apt-get -qq download "${packages[@]}")
plain_names "$folder"
(cd "$folder" && sha256sum -- *.deb >SHA256SUMS)
printf 'collected %s packages in %s; upload it: aws s3 sync %s s3://PACKAGES_BUCKET --delete\n' \
  "$(wc -l <"$folder/SHA256SUMS")" "$folder" "$folder"
