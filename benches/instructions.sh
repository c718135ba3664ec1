#!/usr/bin/env bash
# How many instructions a hit of 1 KiB takes, held against what is committed in
# benches/instructions.txt: more than 2 % above fails, and so does as much below,
# for what was gained is to be kept. `benches/instructions.sh --write` notes it.
#
# Callgrind counts the program itself, with one worker and no access log: what a
# hit takes is the difference between a run of few hits and one of many. Load moves
# it by half a percent, as reads come together or apart. The compiler, the C library
# and the vector instructions at hand matter, so a count is told apart by those.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

counts=benches/instructions.txt
allowance=2
few=200
many=5200

command -v valgrind >/dev/null || { echo "no valgrind: instructions are not counted"; exit 0; }
vector=$(grep -qw avx2 /proc/cpuinfo && echo avx2 || echo plain)
machine="$(uname -m)-$vector rustc-$(rustc --version | cut -d' ' -f2) glibc-$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"

cargo build --locked --release
binary=${CARGO_TARGET_DIR:-$PWD/target}/release/peerage
folder=$(mktemp -d)
origin=
trap 'kill $origin 2>/dev/null || true; rm -rf "$folder"' EXIT
head -c 1024 /dev/zero >"$folder/asset-0123456789abcdef.bin"

# Prints what the pattern captures in a file, once it is there.
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
# So that there is a file, and not the one of the run before, to look into.
touch "$folder/config.toml" "$folder/origin.log" "$folder/edge-$few.log" "$folder/edge-$many.log"

"$binary" origin "$folder" --listen 127.0.0.1:0 >"$folder/origin.log" &
origin=$!
origin_url=$(await "$folder/origin.log" '(http:\/\/[0-9.:]+)')

# Prints how many instructions an edge takes from its start to its end, with so
# many requests for one asset, over one connection, in between.
count() {
    # An edge alone: not the cluster of config.toml.
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" run --config "$folder/config.toml" \
        --set edge.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 --set edge.threads=1 \
        --set log.access=false --set "origin.url=$origin_url" >/dev/null 2>"$folder/edge-$1.log" &
    edge=$!
    local address
    trap 'kill $edge 2>/dev/null || true' EXIT
    address=$(await "$folder/edge-$1.log" '"clients":"([0-9.:]+)"')
    # The part behind # is not sent.
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
    echo "a hit takes $hit instructions; none are noted for $machine"
    exit 0
fi
echo "a hit takes $hit instructions; $noted are noted for $machine"
if ((hit * 100 > noted * (100 + allowance))); then
    echo "that is more than $allowance % above what is noted in $counts"
    exit 1
fi
if ((hit * 100 < noted * (100 - allowance))); then
    echo "that is more than $allowance % below: keep it with benches/instructions.sh --write"
    exit 1
fi
