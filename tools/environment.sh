# What tools/test and tools/run share: finding Python and making .venv. Read by a POSIX shell with `.`, in the root of
# the repository.

# $PYTHON, or the first of these that was compiled with optimisations, as those of distributions and python.org are; else
# the first that works. One that pyenv compiled is mostly not, and takes up to twice the time.
find_python() {
    fallback=
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            fallback=${fallback:-$name}
            if "$name" tools/python_build.py; then
                echo "$name"
                return
            fi
        fi
    done
    if [ -n "$fallback" ]; then
        echo "$fallback"
        return
    fi
    echo "$0: no Python 3.11 or newer with venv was found (on Debian: apt-get install python3-venv)" >&2
    exit 1
}

# Runs one step, says how long it took, and stops at the first that fails.
step() {
    title=$1
    shift
    started=$(date +%s)
    printf '== %s\n' "$title"
    if "$@"; then
        printf '   %s: ok, %s s\n' "$title" "$(($(date +%s) - started))"
    else
        status=$?
        printf '   %s: FAILED (exit %s), %s s\n' "$title" "$status" "$(($(date +%s) - started))" >&2
        exit "$status"
    fi
}

install() {
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return
        "$python" -m venv .venv || return
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e "$1" -c constraints.txt
}

# Makes .venv and installs into it when pyproject.toml or constraints.txt changed since: what runs (`.`), or that and
# what tests (`.[dev]`).
ensure_environment() {
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    installed=$(cat .venv/installed 2>/dev/null || true)
    if [ -x .venv/bin/python ] && { [ "$installed" = "$wanted" ] || [ "$installed" = "$wanted for $1" ]; }; then
        return
    fi
    step install install "$1"
    case $1 in
        '.[dev]') echo "$wanted" > .venv/installed ;;
        *) echo "$wanted for $1" > .venv/installed ;;
    esac
}
