#!/usr/bin/env bash
# Counts the instructions of a hit of 1 KiB, and compares them with the count committed in
# benches/instructions.txt. More than 2 % above it fails. More than 2 % below it fails too, so that
# a gain is kept: `benches/instructions.sh --write` records the new count.
#
# Callgrind counts the program itself, with one worker and no access log. The cost of a hit is the
# difference between a run of few hits and one of many. It varies by half a percent, since reads
# are combined or not. It depends on the compiler, the C library and the vector instructions, so
# each combination of them has a count of its own.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

counts=benches/instructions.txt
allowance=2
few=200
many=5200

if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed: instructions are not counted (install Debian's package valgrind)"
    [[ ${PEERAGE_REQUIRE_TOOLS:-} != 1 ]]
    exit
fi
vector=$(grep -qw avx2 /proc/cpuinfo && echo avx2 || echo plain)
machine="$(uname -m)-$vector rustc-$(rustc --version | cut -d' ' -f2) glibc-$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"

cargo build --locked --release
binary=${CARGO_TARGET_DIR:-$PWD/target}/release/peerage
folder=$(mktemp -d)
origin=
trap 'kill $origin 2>/dev/null || true; rm -rf "$folder"' EXIT
head -c 1024 /dev/zero >"$folder/asset-0123456789abcdef.bin"

# Prints the part of a file that a pattern captures, once it is there.
await() {
    local found
    for _ in {1..1200}; do
        found=$(sed -nE "s/.*$2.*/\1/p" "$1" | head -n 1)
        [[ -n $found ]] && { echo "$found"; return; }
        sleep 0.1
    done
    cat "$1" >&2
    return 1
}
# The files must exist, and must not be those of an earlier run.
touch "$folder/config.toml" "$folder/origin.log" "$folder/edge-$few.log" "$folder/edge-$many.log"

"$binary" origin "$folder" --listen 127.0.0.1:0 >"$folder/origin.log" &
origin=$!
origin_url=$(await "$folder/origin.log" '(http:\/\/[0-9.:]+)')

# Prints how many instructions an edge executes from its start to its end, with this many requests
# for one asset, over one connection, in between.
count() {
    # A single edge, not the cluster of config.toml.
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" run --config "$folder/config.toml" \
        --set edge.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 --set edge.threads=1 \
        --set log.access=false --set "origin.url=$origin_url" >/dev/null 2>"$folder/edge-$1.log" &
    edge=$!
    local address
    trap 'kill $edge 2>/dev/null || true' EXIT
    address=$(await "$folder/edge-$1.log" '"clients":"([0-9.:]+)"')
    # The fragment behind # is not sent.
    curl -fsS -o /dev/null -H 'Host: bench' -H 'User-Agent: bench' "http://$address/asset-0123456789abcdef.bin#[1-$1]"
    kill "$edge"
    wait "$edge"
    await "$folder/edge-$1.log" 'Collected : ([0-9]+)'
}

base=$(count $few)
hit=$((($(count $many) - base) / (many - few)))
if [[ ${1:-} == --write ]]; then
    { grep -vF "$machine " "$counts"; echo "$machine $hit"; } >"$folder/counts"
    cp "$folder/counts" "$counts"
fi
noted=$(sed -n "s/^$machine //p" "$counts")
if [[ -z $noted ]]; then
    echo "a hit takes $hit instructions; no count is recorded for $machine"
    exit 0
fi
echo "a hit takes $hit instructions; $noted are recorded for $machine"
if ((hit * 100 > noted * (100 + allowance))); then
    echo "that is more than $allowance % above the count in $counts"
    exit 1
fi
if ((hit * 100 < noted * (100 - allowance))); then
    echo "that is more than $allowance % below the count in $counts: record it with benches/instructions.sh --write"
    exit 1
fi
