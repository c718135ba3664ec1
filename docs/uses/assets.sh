#!/usr/bin/env bash
# A site whose assets are named by their contents, behind three edges, and a
# deploy of it. docs/uses/assets.md tells the story.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl python3 sha256sum
cd "$stage"

say "A site: a style, a logo, and a page that calls them by the names that they get when they are published."
mkdir source site
# published FILE: its name, by the manifest.
published() { sed -n "/^  \"$1\": {/,/}/s/.*\"name\": \"\(.*\)\",/\1/p" site/manifest.json; }
# Assets first, the page last and in one step: who has the page can have all
# that it calls for.
deploy() {
    peerage publish source --into site
    style=$(published style.css) logo=$(published logo.svg)
    echo "<link rel=stylesheet href=/$style><img src=/$logo><p>$1</p>" >page
    mv page site/index.html
}
echo 'p { color: green }' >source/style.css
echo '<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>' >source/logo.svg
try 'deploy "the first day"'
# Validation goes by the page's time, of which this origin tells whole seconds.
touch -d yesterday site/index.html
try 'ls site'

say "A file server that lets browsers keep assets for a year and anybody keep the page for two seconds; and three edges with one rule."
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

say "What a visitor gets: the page, and what it calls for."
try 'curl -sS "$edge1/"'
try 'curl -sS -D head -o got "$edge1/$style"; cat head'
has "browsers may keep it" "$(<head)" '^cache-control: .*immutable'
has "its name is its validator" "$(<head)" "^etag: \"$(sha256sum source/style.css | cut -c-16)\""
digest=$(sha256sum source/style.css | cut -d' ' -f1 | sed 's/../\\x&/g')
has "its digest is told" "$(<head)" "^repr-digest: sha-256=:$(printf '%b' "$digest" | base64 | sed 's/+/\\+/g'):"
is "the style" "$(<got)" "$(<source/style.css)"
try 'peerage verify --config edge-1.toml "$edge1/$style" "$edge2/$logo"'

say "Ten visits at every edge. The origin is asked for each asset once, and for the page once in two seconds."
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
# The clock of its Date has whole seconds, so two may be one.
((pages <= 3 + SECONDS)) || fail "$pages requests for the page in $SECONDS s"
echo "  so it is: requests at the origin for the page: $pages"

say "A deploy: another style, the same logo. The page is at every edge when the old one is no longer fresh; nobody purges anything."
old_style=$style old_logo=$logo
try 'echo "p { color: blue }" >source/style.css'
try 'deploy "the second day"'
is "the logo's name" "$logo" "$old_logo"
[[ $style != "$old_style" ]] || fail "the style's name is as it was"
is_new() { curl -fsS "$1/" | grep -q "the second day"; }
for edge in "${edges[@]}"; do
    until_so is_new "$edge"
    try 'curl -sS "$edge/"'
    is "its style" "$(curl -fsS "$edge/$style")" "p { color: blue }"
    is "the style of who has the old page open" "$(curl -fsS "$edge/$old_style")" "p { color: green }"
    curl -fsS -o got "$edge/$logo"
done
is "requests at the origin for the new style" "$(asked "/$style")" 1
is "requests at the origin for the old style" "$(asked "/$old_style")" 1
is "requests at the origin for the logo" "$(asked "/$logo")" 1

say "A copy gone wrong: half of a script, under the name of the whole. (publish itself shows whole files only.) A cache that does not look would keep that for a year; here nobody has it."
head -c 100000 /dev/urandom | base64 >source/app.js
try 'peerage publish source --into site'
app=$(published app.js)
try 'head -c 5000 source/app.js >"site/$app"'
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%{http_code}\n" "$edge/$app" | tee status'
    is "half of the script" "$(<status)" 502
done
say "Published once more, it is whole, and comes as soon as cache.wrong_content_ttl is over: one second here."
try 'peerage publish source --into site'
until_so all_give "$app" source/app.js
for edge in "${edges[@]}"; do
    try 'curl -sS "$edge/$app" | cmp - source/app.js'
done

say "All of it was so."
