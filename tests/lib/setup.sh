# What quickstart, tests/run and tests/bench/run do first. Sourced; needs root_dir. Quiet: output goes
# to log files below build/logs, and their ends are shown when something fails.

log_dir=$root_dir/build/logs
started=$SECONDS

# Says what goes on, with the seconds since the start.
note() {
    printf '[%4ds] %s\n' $((SECONDS - started)) "$*"
}

# logged NAME COMMAND...: runs it with its output in a log file; shows the end of that if it fails.
logged() {
    local name=$1 status=0
    shift
    mkdir -p "$log_dir"
    "$@" >"$log_dir/$name.log" 2>&1 </dev/null || status=$?
    if [ $status -ne 0 ]; then
        printf '%s failed (status %d); the end of %s:\n' "$*" $status "$log_dir/$name.log" >&2
        tail -n 30 "$log_dir/$name.log" >&2
    fi
    return $status
}

# build_tree FOLDER [MESON_OPTION...]: configures (once), compiles and installs into FOLDER/stage.
build_tree() {
    local folder=$1 name
    shift
    name=$(basename "$folder")
    if [ ! -f "$folder/build.ninja" ]; then
        logged "$name-setup" meson setup "$folder" "$root_dir" --prefix "$folder/stage" "$@" || return
    elif [ $# -gt 0 ] || ! grep -q "\"$folder/stage\"" "$folder/meson-info/intro-buildoptions.json"; then
        logged "$name-setup" meson configure "$folder" --prefix "$folder/stage" "$@" || return
    fi
    logged "$name-compile" ninja -C "$folder" || return
    logged "$name-install" meson install -C "$folder" --no-rebuild
}

# build_clients_image BELLGLASS: makes the image of tests/integration/test_clients.c likewise. A recipe that
# was built before is not built again.
build_clients_image() {
    "$1" image build tests/integration/clients/image.yaml
}

# install_sdk FOLDER: puts what tests/integration/gateway/package-lock.json names into FOLDER (npm compares it with the hashes
# there), unless it is there. The copy of the list that comes last says that all of it is.
install_sdk() {
    local list=tests/integration/gateway/package-lock.json
    cmp -s "$list" "$1/installed.json" && return
    rm -rf "$1" && mkdir -p "$1" && cp tests/integration/gateway/package*.json "$1/" &&
        (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund) && cp "$list" "$1/installed.json"
}

# build_image BELLGLASS: makes the default image in BELLGLASS's data folder likewise.
build_image() {
    "$1" image build
}
