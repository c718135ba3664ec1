#!/usr/bin/env bash
# Blobs that are named by their digests, like Perkeep's, on a plain file server behind
# three edges. docs/uses/blobrefs.md explains it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl python3 sha1sum sha224sum

say "Two blobs in a folder, each named by its digest."
mkdir "$stage/blobs"
cd "$stage/blobs"
# put FUNCTION: stores standard input under its blobref, and prints the blobref.
put() {
    cat >blob
    local name
    name=$1-$("${1}sum" blob | cut -d' ' -f1)
    mv blob "$name"
    echo "$name"
}
try 'photo=$(head -c 2000000 /dev/urandom | put sha224)'
try 'note=$(echo "the words of a note" | put sha1)'
# On Perkeep's own disks the same name has folders and an extension.
own=sha224/${photo:7:2}/${photo:9:2}/$photo.dat
mkdir -p "${own%/*}"
cp "$photo" "$own"
try 'find * -type f'

say "A plain file server without support for blobs, and three edges in front of it."
serve_files .
start_edges "$files_url" '
[cache]
wrong_content_ttl = "1s"
immutable_sets = ["blobref"]

[[immutable]]
path   = "/**/sha224-{hash}.dat"
digest = "sha224"
length = 56
'

say "A blob through edge 1. The file server states only the length and the date. The edge verifies the blob against its name, and adds the ETag."
try 'curl -sS -D head -o got "$edge1/$photo"'
grep -Ei '^(HTTP|etag|cache-status|age|content-length)' head
has "the ETag is the digest in the name" "$(<head)" "^etag: \"${photo#*-}\""
# RFC 9530 has no key for SHA-224, and calls SHA-1 deprecated.
is "Repr-Digest, which has no key for these functions" "$(grep -ci '^repr-digest' head || true)" 0
is "the bytes match the name" "sha224-$(sha224sum got | cut -d' ' -f1)" "$photo"

say "All blobs through all edges: each is correct everywhere, and requested once from the origin."
for edge in "$edge1" "$edge2" "$edge3"; do
    try 'curl -sS "$edge/$photo" | cmp - "$photo"'
    try 'curl -sS "$edge/$note" | cmp - "$note"'
    try 'curl -sS "$edge/$own" | cmp - "$own"'
done
is "requests at the origin for the photo" "$(asked "/$photo")" 1
is "requests at the origin for the note" "$(asked "/$note")" 1
is "requests at the origin for the photo in its Perkeep folder" "$(asked "/$own")" 1
settles "fetches from the origin by the edges" 'peerage_fetches_total{from="origin"' 3
try 'peerage verify --config "$stage/edge-1.toml" "$edge1/$photo" "$edge2/$note" "$edge3/$own"'

say "A client that has the blob need not download it again, because the ETag never changes."
try 'curl -sS -o got -w "%{http_code}\n" -H "If-None-Match: \"${photo#*-}\"" "$edge2/$photo" | tee status'
is "the status" "$(<status)" 304

say "Now a blob is damaged on the disk: one bit flips."
try 'bad=$(head -c 1000 /dev/zero | put sha224)'
cp "$bad" "$stage/right"
try 'flip "$bad" 500'
is "the file server still serves it" "$(curl -sS -o wrong -w '%{http_code}' "$files_url/$bad")" 200
try 'curl -sS -D head -o got "$edge1/$bad"; cat head got'
has "the client gets a 502" "$(<head)" '^HTTP/1.1 502'
has "and the reason" "$(<head)" 'cache-status: .*origin-wrong-content'
for edge in "$edge2" "$edge3"; do
    is "the same through another edge" "$(curl -sS -o got -w '%{http_code}' "$edge/$bad")" 502
done

say "The operator sees it in the log, and in a metric for an alert."
until_so grep -qs "content digest mismatch.*$bad" "$stage"/edge-?.err
try 'grep -h "content digest mismatch.*$bad" "$stage"/edge-?.err'
wrong=$(metric 'peerage_wrong_contents_total{from="origin"}')
((wrong >= 2)) || fail "peerage_wrong_contents_total is $wrong"
echo "  peerage_wrong_contents_total{from=\"origin\"} $wrong"

say "Once repaired, the blob is served after cache.wrong_content_ttl: one second here."
try 'cp "$stage/right" "$bad"'
until_so all_give "$bad" "$bad"
try 'curl -sS "$edge3/$bad" | sha224sum'

say "All checks passed."
