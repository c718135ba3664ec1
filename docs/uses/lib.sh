# Shared by the scripts of this folder: a stage that cleans up after itself, three
# edges on loopback, a plain file server, and checks that print their results.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit
# Requests to 127.0.0.1 must not go through a proxy.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# The stage: a folder and processes that are removed when the script ends, also after an error.

stage=$(mktemp -d "${TMPDIR:-/tmp}/peerage-uses-XXXXXX")
children=()

finish() {
    local code=$?
    trap - EXIT
    if ((code)) && ((code < 128)); then
        printf '\nfailed; the last log lines of the processes:\n' >&2
        tail -n 5 "$stage"/*.err >&2 || true
    fi
    end_children
    rm -rf "$stage"
    exit "$code"
}

end_children() {
    ((${#children[@]})) || return 0
    kill "${children[@]}" 2>/dev/null || true
    wait "${children[@]}" 2>/dev/null || true
    children=()
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Output and checks.

say() { printf '\n%s\n' "$*" | fmt -w 80; }

# Prints a command and runs it.
try() {
    printf '$ %s\n' "$1"
    eval "$1"
}

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# is NAME VALUE EXPECTED: fails unless the value is the expected one.
is() {
    [[ $2 == "$3" ]] || fail "$1: $2, expected $3"
    printf '  ok: %s: %s\n' "$1" "$2"
}

# has NAME TEXT PATTERN: fails unless a line of the text matches.
has() {
    grep -Eqi -- "$3" <<<"$2" || fail "$1: no line matches \"$3\" in: $2"
    printf '  ok: %s\n' "$1"
}

# until_so COMMAND...: repeats the command until it succeeds, for 60 seconds at most.
until_so() {
    local deadline=$((SECONDS + 60))
    until "$@"; do
        ((SECONDS < deadline)) || fail "timeout: $*"
        sleep 0.05
    done
}

# flip FILE OFFSET: changes one bit of the byte at the offset.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf '%b' "\\0$(printf '%o' $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "$program is required"
    done
}

# Three edges that act as one cache.

# PEERAGE names the binary. Without it, this repository's is built.
if [[ -z ${PEERAGE:-} ]]; then
    PEERAGE=$repository/target/release/peerage
    (cd "$repository" && cargo build --release --quiet)
fi

peerage() { "$PEERAGE" "$@"; }

# start_edges ORIGIN [MORE]: starts three edges in front of the URL ORIGIN, with MORE
# added to their configuration. Sets edge1, edge2 and edge3 to their URLs.
start_edges() {
    local try
    for try in 1 2 3 4 5; do
        if listen "$@"; then
            edge1=${edges[0]} edge2=${edges[1]} edge3=${edges[2]}
            printf '  origin  %s\n' "$1"
            printf '  edge%s   %s\n' 1 "$edge1" 2 "$edge2" 3 "$edge3"
            return
        fi
        echo "  (attempt $try: a port is taken)"
    done
    fail "no free ports"
}

# The system chooses the clients' and the operator's ports. The peers' ports must be known
# before the edges start; they are below the range from which the system chooses.
listen() {
    local number first=$((RANDOM % 20000 + 10000)) pids=()
    edges=() operators=()
    for number in 1 2 3; do
        configure "$number" "$first" "$@" >"$stage/edge-$number.toml"
        "$PEERAGE" run --config "$stage/edge-$number.toml" >"$stage/edge-$number.log" 2>"$stage/edge-$number.err" &
        pids+=($!)
        children+=($!)
    done
    for number in 1 2 3; do
        until_so has_begun "${pids[number - 1]}" "$stage/edge-$number.err"
        if ! grep -q '"serving"' "$stage/edge-$number.err"; then
            is_taken "${pids[number - 1]}" || fail "edge-$number did not start"
            kill "${pids[@]}" 2>/dev/null || true
            return 1
        fi
        edges+=("http://$(said "$number" clients)")
        operators+=("http://$(said "$number" admin)")
    done
}

configure() {
    local number=$1 first=$2 origin=$3 more=${4:-}
    cat <<TOML
[edge]
name   = "edge-$number"
listen = "127.0.0.1:0"
drain  = "1s"

[origin]
url = "$origin"

[cluster]
listen = "127.0.0.1:$((first + number))"
peers  = ["127.0.0.1:$((first + 1))", "127.0.0.1:$((first + 2))", "127.0.0.1:$((first + 3))"]

[admin]
listen = "127.0.0.1:0"

[log]
format = "json"

$more
TOML
}

has_begun() { grep -q '"serving"' "$2" || ! kill -0 "$1" 2>/dev/null; }

is_taken() {
    local code=0
    wait "$1" || code=$?
    ((code == 69))
}

# said NUMBER FIELD: prints a field of the line that the edge logged when it started.
said() { grep '"serving"' "$stage/edge-$1.err" | grep -o "\"$2\":\"[^\"]*" | cut -d'"' -f4; }

# metric NAME: prints the sum of a metric over the edges.
metric() {
    local operator
    for operator in "${operators[@]}"; do
        curl -fsS "$operator/metrics"
    done | awk -v name="$1" 'index($0, name) == 1 { sum += $NF } END { print sum + 0 }'
}

# settles NAME METRIC EXPECTED: fails unless the metric reaches the expected value.
settles() {
    is_there() { [[ $(metric "$1") == "$2" ]]; }
    until_so is_there "$2" "$3"
    is "$1" "$(metric "$2")" "$3"
}

# all_give PATH FILE: succeeds if every edge serves the contents of FILE under PATH.
all_give() {
    local edge
    for edge in "${edges[@]}"; do
        curl -sS "$edge/$1" | cmp -s - "$2" || return
    done
}

# A plain file server.

# serve_files FOLDER [GLOB=CACHE-CONTROL...]: serves a folder like any web server, with
# this Cache-Control for paths that match the glob. Sets files_url.
serve_files() {
    python3 -u "$repository/docs/uses/files.py" "$@" >"$stage/files.out" 2>"$stage/files.err" &
    children+=($!)
    until_so test -s "$stage/files.out"
    files_url=$(cat "$stage/files.out")
}

# asked PATTERN: prints the number of GETs that reached the file server for matching paths.
asked() { grep -Ec "\"GET $1 HTTP" "$stage/files.err" || true; }
