#!/usr/bin/env bash
# A container registry behind three edges, and skopeo that pulls an image through
# them. docs/uses/content-store.md explains it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl docker-registry skopeo sha256sum tar gzip
cd "$stage"

say "An empty registry, over plain HTTP."
cat >registry.yml <<YAML
version: 0.1
storage:
  filesystem:
    rootdirectory: $stage/registry
http:
  addr: 127.0.0.1:0
YAML
docker-registry serve registry.yml >registry.log 2>registry.err &
children+=($!)
listens() { grep -qs 'listening on' registry.err; }
until_so listens
registry=$(grep -o 'listening on [0-9.:]*' registry.err | cut -d' ' -f3)
echo "  registry http://$registry"

say "An image, made by hand: two layers, a configuration, a manifest. All but the tag are named by digest."
digest_of() { sha256sum "$1" | cut -d' ' -f1; }
# blob MEDIA-TYPE FILE: adds the file to the image, and prints its descriptor.
blob() {
    cp "$2" "image/blobs/sha256/$(digest_of "$2")"
    printf '"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' \
        "$1" "$(digest_of "$2")" "$(stat -c %s "$2")"
}
# layer NAME: packs the folder of that name.
layer() {
    tar -cf "$1.tar" "$1"
    gzip -9nkf "$1.tar"
}
make_image() {
    layer program
    layer words
    rm -rf image
    mkdir -p image/blobs/sha256
    echo '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
    cat >config <<JSON
{"architecture":"amd64","os":"linux","config":{},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(digest_of program.tar)","sha256:$(digest_of words.tar)"]}}
JSON
    cat >manifest <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":{$(blob config.v1+json config)},
 "layers":[{$(blob layer.v1.tar+gzip program.tar.gz)},{$(blob layer.v1.tar+gzip words.tar.gz)}]}
JSON
    cat >image/index.json <<JSON
{"schemaVersion":2,"manifests":[{$(blob manifest.v1+json manifest),
 "annotations":{"org.opencontainers.image.ref.name":"latest"}}]}
JSON
}
mkdir program words
head -c 3000000 /dev/urandom >program/program
echo "the first words" >words/words
make_image
# Without signatures, and without the configuration of the user that runs this script.
skopeo() { HOME=$stage XDG_RUNTIME_DIR=$stage command skopeo --insecure-policy --tmpdir "$stage" "$@"; }
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://$registry/team/demo:latest"'

say "Three edges in front of it."
start_edges "http://$registry" '
[cache]
wrong_content_ttl    = "1s"
negative_ttl = "1h"
immutable_sets = ["oci"]
'

# pull: pulls the image through $edge into an empty folder, and compares it with the
# pushed image.
pulls=0
pull() {
    folder=pulled-$((pulls += 1))
    try 'skopeo copy -q --src-tls-verify=false "docker://${edge#http://}/team/demo:latest" "dir:$folder"'
    local file
    for file in config program.tar.gz words.tar.gz; do
        cmp "$file" "$folder/$(digest_of "$file")"
    done
    cmp manifest "$folder/manifest.json"
}
# asked PATTERN: prints the number of matching GETs at the registry. The registry logs a
# request after its response. So this waits for the line of a request of its own: the
# lines of earlier requests are there by then.
asked() {
    local sign=$RANDOM-$RANDOM
    curl -fsS -o /dev/null "http://$registry/v2/?sign=$sign"
    until_so grep -q "sign=$sign " registry.log
    grep -Ec "\"GET /v2/team/demo/$1 HTTP" registry.log || true
}
is_asked() { is "$1" "$(asked "$2")" "$3"; }

say "The image through each edge: the first pull fetches three blobs from the registry, the others none."
for edge in "${edges[@]}"; do
    pull
    is_asked "blobs asked for at the registry" 'blobs/.*' 3
done
try 'grep "GET.*/blobs/" registry.log'
has "a fill has the User-Agent of the client" "$(grep 'GET.*/blobs/' registry.log)" '"skopeo/'

say "Again through every edge, into empty folders: the registry gets no request for a blob."
for edge in "${edges[@]}"; do
    pull
done
is_asked "blobs asked for at the registry" 'blobs/.*' 3
is_asked "manifests, which pass, requested at the registry" 'manifests/.*' 6

say "The tag moves to an image with other words and the same program."
old_words=$(digest_of words.tar.gz) program=$(digest_of program.tar.gz)
echo "other words" >words/words
make_image
words=$(digest_of words.tar.gz)
[[ $words != "$old_words" ]] || fail "the words are the same"
is "the layer with the program" "$(digest_of program.tar.gz)" "$program"
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://$registry/team/demo:latest"'

say "A layer is damaged on the registry's disk: one bit flips."
data=registry/docker/registry/v2/blobs/sha256/${words:0:2}/$words/data
try 'flip "$data" 100'
is "the registry still serves it" \
    "$(curl -sS -o got -w '%{http_code}' "http://$registry/v2/team/demo/blobs/sha256:$words")" 200
! cmp -s got words.tar.gz || fail "the layer is not damaged"
try 'curl -sS -i "$edge1/v2/team/demo/blobs/sha256:$words"'
is "the status" "$(curl -sS -o got -w '%{http_code}' "$edge2/v2/team/demo/blobs/sha256:$words")" 502
wrong=$(metric 'peerage_wrong_contents_total{from="origin"}')
((wrong >= 2)) || fail "peerage_wrong_contents_total is $wrong"
echo "  peerage_wrong_contents_total{from=\"origin\"} $wrong"

say "The layer is repaired. Every edge serves the new tag, and the registry gets one request for each new blob."
cp words.tar.gz "$data"
until_so all_give "v2/team/demo/blobs/sha256:$words" words.tar.gz
before=$(asked "blobs/sha256:$words")
for edge in "${edges[@]}"; do
    pull
done
is_asked "requests for the program in total" "blobs/sha256:$program" 1
is "requests for the new words since the repair" "$(($(asked "blobs/sha256:$words") - before))" 0
is_asked "requests for the new configuration" "blobs/sha256:$(digest_of config)" 1

say "Two kinds of response depend on more than the name. First a manifest, even by digest: the registry's response depends on Accept."
by_digest=v2/team/demo/manifests/sha256:$(digest_of manifest)
try 'curl -sS -H "Accept: application/vnd.oci.image.manifest.v1+json" "$edge1/$by_digest" | cmp - manifest'
try 'curl -sS -o got -w "%{http_code}\n" "$edge1/$by_digest" | tee status'
is "the registry's response to a client that accepts no such manifest" "$(<status)" 404

say "Second a blob for a request with credentials, unless the registry marks it as public, and this one does not."
echo "secret words" >words/words
make_image
secret=v2/team/demo/blobs/sha256:$(digest_of words.tar.gz)
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%{http_code}\n" "$edge/$secret"'
done
is_asked "requests for a missing blob" "${secret#*demo/}" 1
say "(This image is pushed through an edge, which forwards every write. All edges had stored for an hour that the layer is missing; the push purges that.)"
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://${edge2#http://}/team/demo:secret"'
for edge in "${edges[@]}"; do
    try 'curl -sS -H "Authorization: Bearer 1234" "$edge/$secret" | cmp - words.tar.gz'
done
is_asked "requests for it after one with credentials at each edge" "${secret#*demo/}" 4
for edge in "${edges[@]}"; do
    try 'curl -sS "$edge/$secret" | cmp - words.tar.gz'
done
is_asked "requests for it after one without credentials at each edge" "${secret#*demo/}" 5
try 'curl -sS -H "Authorization: Bearer 1234" "$edge1/$secret" | cmp - words.tar.gz'
is_asked "requests for it after one with credentials for the stored blob" "${secret#*demo/}" 5

say "All checks passed."
