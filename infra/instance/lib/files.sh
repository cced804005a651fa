# Writing configuration: whole files or none, and only when something changed.
# shellcheck shell=bash

# Prints a template with each @NAME@ replaced by that variable: render FILE NAME...
render() {
  local file=$1 name text
  shift
  text=$(<"$file")
  for name in "$@"; do
    text=${text//"@$name@"/"${!name}"}
  done
  [[ $text =~ @([A-Z_]+)@ ]] && die "${file##*/} needs ${BASH_REMATCH[1]}, which nobody gave it"
  printf '%s\n' "$text"
}

# Replaces FILE by standard input if they differ: install_file FILE MODE OWNER
install_file() {
  local file=$1 mode=$2 owner=$3 new="$1.new"
  install -m "$mode" -o "$owner" -g "$(id -gn "$owner")" /dev/null "$new"
  cat >"$new"
  if cmp -s "$new" "$file"; then
    rm "$new"
  else
    sync "$new"
    mv "$new" "$file"
    say "wrote $file"
  fi
}

# make_folder FOLDER MODE OWNER [GROUP]
make_folder() {
  install -d -m "$2" -o "$3" -g "${4:-$(id -gn "$3")}" "$1"
}

# Runs a command as the database's user, with that user's process as ours: no shell and no parent in between.
as_postgres() {
  if ((EUID == 0)); then
    (cd / && setpriv --reuid="$OS_USER" --regid="$(id -g "$OS_USER")" --init-groups -- "$@")
  else
    (cd / && "$@")
  fi
}

# Calls a condition every half second until it holds: wait_for SECONDS COMMAND...
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.5
  done
}
