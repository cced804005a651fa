#!/bin/sh
# Says, in one line each, what this machine lacks for `make setup`. Usage: check-machine.sh PYTHON
python=$1
missing=0
lacks() {
    echo "setup: $1" >&2
    missing=1
}
if ! command -v "$python" >/dev/null; then
    lacks "no $python: install Python 3.11 or newer (apt-get install python3 python3-venv)"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    lacks "$python is $("$python" --version 2>&1): Python 3.11 or newer is needed (make PYTHON=python3.11 ...)"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    lacks "$python has no venv: apt-get install python3-venv"
fi
if ! command -v node >/dev/null; then
    lacks "no Node.js: the AWS CDK needs version 20 or newer (apt-get install nodejs npm)"
elif ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
    lacks "Node.js $(node --version) is too old: the AWS CDK needs version 20 or newer"
elif ! command -v npm >/dev/null; then
    lacks "no npm: apt-get install npm"
fi
[ -w . ] || lacks "cannot write in $(pwd): make it writable, or use a checkout of your own"
exit $missing
