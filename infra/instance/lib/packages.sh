# PostgreSQL and the rest from our own bucket: the instance reaches no package repository.
# shellcheck shell=bash

PACKAGES=(postgresql-17 timescaledb-2-postgresql-17 pgbackrest amazon-cloudwatch-agent)

# Fetches the manifest and, when it is not the installed one, what it lists; checks every sum before anything is used.
fetch_packages() {
  local folder=$1 sum file
  rm -rf "$folder"
  make_folder "$folder" 0755 "$(id -un)"
  s3_get "$PACKAGES_BUCKET" SHA256SUMS "$folder/SHA256SUMS" ||
    die "s3://$PACKAGES_BUCKET/SHA256SUMS cannot be read: collect_packages.sh makes the folder to upload (docs/database.md, Software)"
  packages_installed "$folder/SHA256SUMS" && return
  while read -r sum file; do
    [[ $sum =~ ^[0-9a-f]{64}$ && $file =~ ^[A-Za-z0-9._-]+\.deb$ ]] ||
      die "SHA256SUMS in $PACKAGES_BUCKET has the line \"$sum $file\": make it with collect_packages.sh"
    s3_get "$PACKAGES_BUCKET" "$file" "$folder/$file" ||
      die "s3://$PACKAGES_BUCKET/$file cannot be read but is in SHA256SUMS: upload collect_packages.sh's folder again"
  done <"$folder/SHA256SUMS"
  check_packages "$folder"
}

check_packages() {
  local wrong
  if ! wrong=$(cd "$1" && sha256sum --check --strict --quiet SHA256SUMS 2>&1); then
    die "package ${wrong%%$'\n'*}: not what SHA256SUMS says; upload collect_packages.sh's folder again"
  fi
}

packages_installed() { cmp -s "$1" "$STATE_FOLDER/installed.SHA256SUMS"; }

# Lists the fetched packages the way a repository does, so that apt resolves and takes only what the system lacks.
index_packages() {
  local folder=$1 deb
  for deb in "$folder"/*.deb; do
    dpkg-deb --field "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' \
      "${deb##*/}" "$(stat --format=%s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
  done >"$folder/Packages"
  chmod 0644 "$folder"/*
  # Trusted: every file has just been checked against the manifest.
  printf 'deb [trusted=yes] file:%s ./\n' "$folder" >"$folder/sources.list"
}

# Runs apt-get with the fetched packages as its only source: local_apt FOLDER arguments...
local_apt() {
  local folder=$1
  shift
  mkdir -p "$folder/lists/partial"
  DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get --quiet=2 \
    -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$folder/lists" -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 \
    -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef "$@"
}

install_packages() {
  local folder=$STATE_FOLDER/packages
  make_folder "$STATE_FOLDER" 0755 root
  fetch_packages "$folder"
  if ! packages_installed "$folder/SHA256SUMS"; then
    say "installing ${PACKAGES[*]}"
    # The cluster is ours to make, on the data volume: the package must not make one of its own.
    make_folder /etc/postgresql-common 0755 root
    printf 'create_main_cluster = false\n' | install_file /etc/postgresql-common/createcluster.conf 0644 root
    index_packages "$folder"
    local_apt "$folder" update || die "the packages cannot be indexed: see $BOOTSTRAP_LOG"
    local_apt "$folder" install --yes "${PACKAGES[@]}" ||
      die "the packages do not install: see $BOOTSTRAP_LOG; collect them again with collect_packages.sh"
    cp "$folder/SHA256SUMS" "$STATE_FOLDER/installed.SHA256SUMS"
  fi
  rm -rf "$folder"
}
