#!/usr/bin/env bash
# Blobs whose names are their digests, as Perkeep names them, on a plain file
# server behind three edges. docs/uses/blobrefs.md tells the story.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl python3 sha1sum sha224sum

say "Two blobs in a folder, each under the name that its bytes give it."
mkdir "$stage/blobs"
cd "$stage/blobs"
# put FUNCTION: stores standard input, and prints its blobref.
put() {
    cat >blob
    local name
    name=$1-$("${1}sum" blob | cut -d' ' -f1)
    mv blob "$name"
    echo "$name"
}
try 'photo=$(head -c 2000000 /dev/urandom | put sha224)'
try 'note=$(echo "the words of a note" | put sha1)'
# On Perkeep's own disks, the same name has a folder and an ending.
own=sha224/${photo:7:2}/${photo:9:2}/$photo.dat
mkdir -p "${own%/*}"
cp "$photo" "$own"
try 'find * -type f'

say "A plain file server that knows nothing of blobs, and three edges before it."
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

say "A blob through edge 1. The file server said nothing of it but its length and its date; the edge knows by the name that it is right, and says so."
try 'curl -sS -D head -o got "$edge1/$photo"'
grep -Ei '^(HTTP|etag|cache-status|age|content-length)' head
has "it has the name for a validator" "$(<head)" "^etag: \"${photo#*-}\""
# RFC 9530 has no name for SHA-224, and calls SHA-1 deprecated.
is "Repr-Digest, which has no word for these functions" "$(grep -ci '^repr-digest' head || true)" 0
is "the bytes have the name" "sha224-$(sha224sum got | cut -d' ' -f1)" "$photo"

say "Through all edges, all blobs: right everywhere, and asked for once at the origin."
for edge in "$edge1" "$edge2" "$edge3"; do
    try 'curl -sS "$edge/$photo" | cmp - "$photo"'
    try 'curl -sS "$edge/$note" | cmp - "$note"'
    try 'curl -sS "$edge/$own" | cmp - "$own"'
done
is "requests at the origin for the photo" "$(asked "/$photo")" 1
is "requests at the origin for the note" "$(asked "/$note")" 1
is "requests at the origin for the photo as Perkeep keeps it" "$(asked "/$own")" 1
settles "fetches of the edges from the origin" 'peerage_fetches_total{from="origin"' 3
try 'peerage verify --config "$stage/edge-1.toml" "$edge1/$photo" "$edge2/$note" "$edge3/$own"'

say "Who has it need not get it again, for the tag never changes."
try 'curl -sS -o got -w "%{http_code}\n" -H "If-None-Match: \"${photo#*-}\"" "$edge2/$photo" | tee status'
is "the status" "$(<status)" 304

say "Now a blob goes bad on the disk: one bit of it is another."
try 'bad=$(head -c 1000 /dev/zero | put sha224)'
cp "$bad" "$stage/right"
try 'flip "$bad" 500'
is "the file server gives it nevertheless" "$(curl -sS -o wrong -w '%{http_code}' "$files_url/$bad")" 200
try 'curl -sS -D head -o got "$edge1/$bad"; cat head got'
has "the client gets a 502" "$(<head)" '^HTTP/1.1 502'
has "and why" "$(<head)" 'cache-status: .*origin-wrong-content'
for edge in "$edge2" "$edge3"; do
    is "so does who asks another edge" "$(curl -sS -o got -w '%{http_code}' "$edge/$bad")" 502
done

say "The operator sees it: in the log, and as a figure to be alarmed by."
until_so grep -qs "content digest mismatch.*$bad" "$stage"/edge-?.err
try 'grep -h "content digest mismatch.*$bad" "$stage"/edge-?.err'
wrong=$(metric 'peerage_wrong_contents_total{from="origin"}')
((wrong >= 2)) || fail "peerage_wrong_contents_total is $wrong"
echo "  peerage_wrong_contents_total{from=\"origin\"} $wrong"

say "It is mended, and comes as soon as cache.wrong_content_ttl is over: one second here."
try 'cp "$stage/right" "$bad"'
until_so all_give "$bad" "$bad"
try 'curl -sS "$edge3/$bad" | sha224sum'

say "All of it was so."
