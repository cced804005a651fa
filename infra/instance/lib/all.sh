# What every script of the instance begins with: settings, paths and functions.
# shellcheck shell=bash

# shellcheck source=start.sh
source "$SCRIPTS/start.sh"
# shellcheck source=lib/paths.sh
source "$SCRIPTS/lib/paths.sh"
for part in files volume packages tls secrets configuration database backups units; do
  # shellcheck source=/dev/null
  source "$SCRIPTS/lib/$part.sh"
done
umask 022
mkdir -p "$RUN_FOLDER"
load_environment
