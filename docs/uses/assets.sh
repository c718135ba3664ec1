#!/usr/bin/env bash
# A site with hashes in the names of its assets, behind three edges, and a deploy of
# the site. docs/uses/assets.md explains it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl python3 sha256sum
cd "$stage"

say "A site: a style sheet, a logo, and a page that refers to their published names."
mkdir source site
# published FILE: prints its published name, from the manifest.
published() { sed -n "/^  \"$1\": {/,/}/s/.*\"name\": \"\(.*\)\",/\1/p" site/manifest.json; }
# Assets first, the page last and in one step: a client that has the page can get all
# assets of the page.
deploy() {
    peerage publish source --into site
    style=$(published style.css) logo=$(published logo.svg)
    echo "<link rel=stylesheet href=/$style><img src=/$logo><p>$1</p>" >page
    mv page site/index.html
}
echo 'p { color: green }' >source/style.css
echo '<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>' >source/logo.svg
try 'deploy "the first day"'
# Validation uses the page's modification time, which this origin states in whole seconds.
touch -d yesterday site/index.html
try 'ls site'

say "A file server that allows caches to keep assets for a year and the page for two seconds; and three edges with one rule."
serve_files site \
    '/*-????????????????.*=public, max-age=31536000, immutable' \
    '/=public, max-age=2'
start_edges "$files_url" '
[cache]
wrong_content_ttl = "1s"

[[immutable]]
path   = "/**/*-{hash}.*"
digest = "sha256"
length = 16
'

say "A visitor gets the page and its assets."
try 'curl -sS "$edge1/"'
try 'curl -sS -D head -o got "$edge1/$style"; cat head'
has "browsers may store it" "$(<head)" '^cache-control: .*immutable'
has "the ETag is the hash in the name" "$(<head)" "^etag: \"$(sha256sum source/style.css | cut -c-16)\""
digest=$(sha256sum source/style.css | cut -d' ' -f1 | sed 's/../\\x&/g')
has "Repr-Digest has the digest" "$(<head)" "^repr-digest: sha-256=:$(printf '%b' "$digest" | base64 | sed 's/+/\\+/g'):"
is "the style sheet" "$(<got)" "$(<source/style.css)"
try 'peerage verify --config edge-1.toml "$edge1/$style" "$edge2/$logo"'

say "Ten visits at every edge. The origin gets one request for each asset, and one for the page every two seconds."
visits() {
    local edge path visit
    for visit in {1..10}; do
        for edge in "${edges[@]}"; do
            for path in "" "$style" "$logo"; do
                curl -fsS -o got "$edge/$path"
            done
        done
    done
}
SECONDS=0
try 'visits'
is "requests at the origin for the style" "$(asked "/$style")" 1
is "requests at the origin for the logo" "$(asked "/$logo")" 1
pages=$(asked /)
# Date has whole seconds, so a lifetime of two seconds may be one.
((pages <= 3 + SECONDS)) || fail "$pages requests for the page in $SECONDS s"
echo "  ok: requests at the origin for the page: $pages"

say "A deploy: a new style sheet, the same logo. Every edge has the new page once the old one is stale. Nothing is purged."
old_style=$style old_logo=$logo
try 'echo "p { color: blue }" >source/style.css'
try 'deploy "the second day"'
is "the logo's name" "$logo" "$old_logo"
[[ $style != "$old_style" ]] || fail "the style sheet's name has not changed"
is_new() { curl -fsS "$1/" | grep -q "the second day"; }
for edge in "${edges[@]}"; do
    until_so is_new "$edge"
    try 'curl -sS "$edge/"'
    is "the style sheet of the page" "$(curl -fsS "$edge/$style")" "p { color: blue }"
    is "the style sheet of the old page" "$(curl -fsS "$edge/$old_style")" "p { color: green }"
    curl -fsS -o got "$edge/$logo"
done
is "requests at the origin for the new style" "$(asked "/$style")" 1
is "requests at the origin for the old style" "$(asked "/$old_style")" 1
is "requests at the origin for the logo" "$(asked "/$logo")" 1

say "A damaged copy: half of a script, under the name of the whole. (publish itself makes only complete files visible.) A cache that does not verify would keep that for a year; here no client gets it."
head -c 100000 /dev/urandom | base64 >source/app.js
try 'peerage publish source --into site'
app=$(published app.js)
try 'head -c 5000 source/app.js >"site/$app"'
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%{http_code}\n" "$edge/$app" | tee status'
    is "half of the script" "$(<status)" 502
done
say "Published again, the script is complete. The edges serve it after cache.wrong_content_ttl: one second here."
try 'peerage publish source --into site'
until_so all_give "$app" source/app.js
for edge in "${edges[@]}"; do
    try 'curl -sS "$edge/$app" | cmp - source/app.js'
done

say "All checks passed."
