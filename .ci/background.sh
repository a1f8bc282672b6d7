# shellcheck shell=bash
# Background jobs for .ci/run, which sources this file.
#
#   background NAME COMMAND...   starts a command; its output goes to a file
#   await NAME                   waits until it has ended, prints its output, and returns its status
#
# Jobs that are still running when the script exits are stopped.

background_logs=$(mktemp -d)
declare -A background_pids

background() {
    local name=$1
    shift
    "$@" >"$background_logs/$name" 2>&1 &
    background_pids[$name]=$!
}

await() {
    local name=$1 status=0
    wait "${background_pids[$name]}" || status=$?
    unset "background_pids[$name]"
    echo "=== $name: exit status $status"
    cat "$background_logs/$name"
    return "$status"
}

stop_background_jobs() {
    local name
    for name in "${!background_pids[@]}"; do
        echo "=== $name: stopped" >&2
        kill "${background_pids[$name]}" 2>/dev/null || true
        wait "${background_pids[$name]}" || true
    done
    rm -rf "$background_logs"
}
trap stop_background_jobs EXIT
