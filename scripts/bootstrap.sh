#!/bin/sh
# Makes one of Kiln's own environments: bootstrap.sh FOLDER LOCK
#
# FOLDER/.complete is written last and holds what the environment was made from, so an interrupted
# run is never taken for a whole one and an unchanged environment is not made again.
set -eu

folder=$1
lock=$2
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
lock=$root/$lock
name=$(basename "$folder")
stamp=$folder/.complete
recipe=$(cat "$lock" "$root/scripts/bootstrap.sh" | cksum)

say() { printf 'kiln: %s\n' "$*" >&2; }

usable() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if usable "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
}

# A Python without its ensurepip, as Debian ships it, can still make an environment for another pip.
make_with_python() {
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$folder" || return 1
    set -- "$folder/bin/python" -m pip
  elif "$python" -c 'import pip, venv' 2>/dev/null; then
    "$python" -m venv --without-pip "$folder" || return 1
    set -- "$python" -m pip --python "$folder/bin/python"
  else
    say "$python cannot make environments: apt-get install python3-venv, or install uv"
    return 1
  fi
  "$@" install -qq --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --requirement "$lock"
}

make_with_uv() {
  uv venv --quiet --no-project --python '>=3.11' "$folder" &&
    uv pip install --quiet --python "$folder/bin/python" --no-deps --only-binary :all: \
      --require-hashes --requirement "$lock"
}

# The lock alone decides what is installed, not an active environment or a user's defaults.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV \
  PIP_CONSTRAINT UV_PROJECT_ENVIRONMENT UV_CONSTRAINT UV_OVERRIDE UV_PYTHON UV_TARGET || true

mkdir -p "$(dirname "$folder")"
# The driver's own uv serves where the host has none.
PATH=$PATH:$(dirname "$folder")/driver/bin
if command -v flock >/dev/null 2>&1; then
  exec 9>"$folder.lock"
  flock 9
fi
if ! { [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ] && "$folder/bin/python" -c ''; }; then
  say "making the $name's own environment in $folder (once)"
  rm -rf "$folder"
  python=$(find_python)
  if command -v uv >/dev/null 2>&1 && make_with_uv; then
    :
  elif [ -n "$python" ]; then
    # pip may know an index that uv does not: the two read different settings.
    rm -rf "$folder"
    make_with_python || { say "the environment in $folder cannot be made; see above"; exit 5; }
  else
    say "Python 3.11 or newer is needed and is not on PATH: apt-get install python3-venv," \
      "or install uv, which brings one"
    exit 5
  fi
fi
# The checkout itself, as an editable install would add it; that would have to build a package.
for packages in "$folder"/lib/python*/site-packages; do
  printf '%s\n' "$root" >"$packages/kiln.pth"
done
printf '%s\n' "$recipe" >"$stamp"
