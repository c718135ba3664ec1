#!/usr/bin/env bash
# A container registry behind three edges, and skopeo that pulls an image
# through them. docs/uses/content-store.md tells the story.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl docker-registry skopeo sha256sum tar gzip
cd "$stage"

say "A registry with nothing in it, over plain HTTP."
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

say "An image, made by hand: two layers, a configuration, a manifest. All but the tag goes by digest."
digest_of() { sha256sum "$1" | cut -d' ' -f1; }
# blob MEDIA-TYPE FILE: puts it into the image, and prints what refers to it.
blob() {
    cp "$2" "image/blobs/sha256/$(digest_of "$2")"
    printf '"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' \
        "$1" "$(digest_of "$2")" "$(stat -c %s "$2")"
}
# layer NAME: packs the folder of this name.
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
# It wants no signatures here, and knows nothing of whoever runs this.
skopeo() { HOME=$stage XDG_RUNTIME_DIR=$stage command skopeo --insecure-policy --tmpdir "$stage" "$@"; }
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://$registry/team/demo:latest"'

say "Three edges before it."
start_edges "http://$registry" '
[cache]
wrong_content_ttl    = "1s"
negative_ttl = "1h"
immutable_sets = ["oci"]
'

# pull: what a machine at $edge does that has nothing of the image, and is it
# what was pushed?
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
# asked PATTERN: how often such a thing has been asked for at the registry. It
# writes its line when it has answered: that of a request of our own says that
# those before are there.
asked() {
    local sign=$RANDOM-$RANDOM
    curl -fsS -o /dev/null "http://$registry/v2/?sign=$sign"
    until_so grep -q "sign=$sign " registry.log
    grep -Ec "\"GET /v2/team/demo/$1 HTTP" registry.log || true
}
is_asked() { is "$1" "$(asked "$2")" "$3"; }

say "The image through each edge: the first asks the registry for three blobs, the others for none."
for edge in "${edges[@]}"; do
    pull
    is_asked "blobs asked for at the registry" 'blobs/.*' 3
done
try 'grep "GET.*/blobs/" registry.log'
has "a fill names the client's program" "$(grep 'GET.*/blobs/' registry.log)" '"skopeo/'

say "Once more, through every edge, into empty folders: no blob is asked for."
for edge in "${edges[@]}"; do
    pull
done
is_asked "blobs asked for at the registry" 'blobs/.*' 3
is_asked "manifests, which pass" 'manifests/.*' 6

say "The tag moves: other words in the image, the same program."
old_words=$(digest_of words.tar.gz) program=$(digest_of program.tar.gz)
echo "other words" >words/words
make_image
words=$(digest_of words.tar.gz)
[[ $words != "$old_words" ]] || fail "the words are the same"
is "the layer with the program" "$(digest_of program.tar.gz)" "$program"
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://$registry/team/demo:latest"'

say "But the registry's disk has a layer wrong: one bit of it."
data=registry/docker/registry/v2/blobs/sha256/${words:0:2}/$words/data
try 'flip "$data" 100'
is "the registry gives it nevertheless" \
    "$(curl -sS -o got -w '%{http_code}' "http://$registry/v2/team/demo/blobs/sha256:$words")" 200
! cmp -s got words.tar.gz || fail "the layer is right"
try 'curl -sS -i "$edge1/v2/team/demo/blobs/sha256:$words"'
is "the status" "$(curl -sS -o got -w '%{http_code}' "$edge2/v2/team/demo/blobs/sha256:$words")" 502
wrong=$(metric 'peerage_wrong_contents_total{from="origin"}')
((wrong >= 2)) || fail "peerage_wrong_contents_total is $wrong"
echo "  peerage_wrong_contents_total{from=\"origin\"} $wrong"

say "It is mended. Every edge has the tag as it is now, and the registry is asked for what is new, once."
cp words.tar.gz "$data"
until_so all_give "v2/team/demo/blobs/sha256:$words" words.tar.gz
before=$(asked "blobs/sha256:$words")
for edge in "${edges[@]}"; do
    pull
done
is_asked "requests for the program, in all" "blobs/sha256:$program" 1
is "requests for the new words since they are right" "$(($(asked "blobs/sha256:$words") - before))" 0
is_asked "requests for the new configuration" "blobs/sha256:$(digest_of config)" 1

say "What does not go by its name: a manifest, even by digest, for what the registry answers depends on Accept;"
by_digest=v2/team/demo/manifests/sha256:$(digest_of manifest)
try 'curl -sS -H "Accept: application/vnd.oci.image.manifest.v1+json" "$edge1/$by_digest" | cmp - manifest'
try 'curl -sS -o got -w "%{http_code}\n" "$edge1/$by_digest" | tee status'
is "the registry's answer to who accepts no such manifest" "$(<status)" 404

say "and a blob for who shows credentials, unless the registry calls it public, which this one does not."
echo "secret words" >words/words
make_image
secret=v2/team/demo/blobs/sha256:$(digest_of words.tar.gz)
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%{http_code}\n" "$edge/$secret"'
done
is_asked "requests for what is not there" "${secret#*demo/}" 1
say "(This one is pushed through an edge, which passes every write on. All edges knew that the layer was missing, for an hour here; they forget it by that.)"
try 'skopeo copy -q --dest-tls-verify=false oci:image:latest "docker://${edge2#http://}/team/demo:secret"'
for edge in "${edges[@]}"; do
    try 'curl -sS -H "Authorization: Bearer 1234" "$edge/$secret" | cmp - words.tar.gz'
done
is_asked "and with those of who shows credentials" "${secret#*demo/}" 4
for edge in "${edges[@]}"; do
    try 'curl -sS "$edge/$secret" | cmp - words.tar.gz'
done
is_asked "and with one of who shows none" "${secret#*demo/}" 5
try 'curl -sS -H "Authorization: Bearer 1234" "$edge1/$secret" | cmp - words.tar.gz'
is_asked "and with one of who shows credentials for what is stored" "${secret#*demo/}" 5

say "All of it was so."
