#!/usr/bin/env bash
# A Debian repository behind three edges, and apt that takes an update and a
# package through them. docs/uses/content-store.md tells the story.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need apt-ftparchive apt-get curl dpkg dpkg-deb python3 gzip sha256sum
cd "$stage"

say "A repository with one package. Its indexes are there by hash too: apt, when the Release says so, asks for those."
arch=$(dpkg --print-architecture)
# add VERSION: builds a package, and adds it to the pool.
add() {
    mkdir -p package/DEBIAN package/usr/share/hello-edge repository/pool/main/h/hello-edge
    head -c 1000000 /dev/urandom >package/usr/share/hello-edge/data
    cat >package/DEBIAN/control <<CONTROL
Package: hello-edge
Version: $1
Architecture: all
Maintainer: Nobody <nobody@localhost>
Description: a package to fetch
CONTROL
    dpkg-deb --build --root-owner-group package "repository/pool/main/h/hello-edge/hello-edge_$1_all.deb" >dpkg.out
}
# index: writes the indexes, and the Release last, which names them by hash.
index() {
    local dist=repository/dists/stable binary file
    binary=$dist/main/binary-$arch
    mkdir -p "$binary/by-hash/SHA256"
    (cd repository && apt-ftparchive packages pool) >"$binary/Packages"
    gzip -9nkf "$binary/Packages"
    for file in "$binary"/Packages{,.gz}; do
        cp "$file" "$binary/by-hash/SHA256/$(sha256sum "$file" | cut -d' ' -f1)"
    done
    apt-ftparchive \
        -o APT::FTPArchive::Release::Suite=stable \
        -o APT::FTPArchive::Release::Architectures="$arch" \
        -o APT::FTPArchive::Release::Components=main \
        -o APT::FTPArchive::Release::Acquire-By-Hash=yes \
        -o APT::FTPArchive::MD5=no -o APT::FTPArchive::SHA1=no -o APT::FTPArchive::SHA512=no \
        release "$dist" >Release
    mv Release "$dist/Release"
}
try 'add 1.0'
try 'index'
# Validation goes by the time of a file, of which this origin tells whole seconds.
touch -d yesterday repository/dists/stable/Release
try 'cat repository/dists/stable/Release'

say "The web server says what may be kept: a package for ever, for another one has another version; all else only with a question each time. But what goes by hash needs none, and the three edges before it know that."
serve_files "$stage/repository" \
    '/pool/*=public, max-age=31536000, immutable' \
    '/dists/*=no-cache'
start_edges "$files_url" '
[cache]
wrong_content_ttl = "1s"
immutable_sets = ["by-hash"]
'

# machine NAME: a machine that has never heard of any package, as far as apt
# knows: it reads and writes nothing outside this folder.
machine() {
    local root=$stage/$1
    mkdir -p "$root"/{none.d,etc/preferences.d,lists/partial,archives/partial}
    cd "$root"
    : >status
    echo "deb [trusted=yes] $edge stable main" >sources.list
    cat >apt.conf <<CONF
Dir::State "$root";
Dir::State::lists "$root/lists";
Dir::State::status "$root/status";
Dir::Cache "$root";
Dir::Cache::archives "$root/archives";
Dir::Etc "$root/etc";
Dir::Etc::main "$root/none";
Dir::Etc::parts "$root/none.d";
Dir::Etc::sourcelist "$root/sources.list";
Dir::Etc::sourceparts "$root/none.d";
Dir::Log "$root";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::http::Proxy "DIRECT";
Acquire::Languages "none";
CONF
    export APT_CONFIG=$root/apt.conf
}

# install VERSION: what each machine does that wants the package.
machines=0
install() {
    machine "machine-$((machines += 1))"
    try 'apt-get -q update'
    try 'apt-get -q download hello-edge'
    cmp "hello-edge_$1_all.deb" "$stage/repository/pool/main/h/hello-edge/hello-edge_$1_all.deb"
}
counts() {
    is "indexes by hash that the origin was asked for" "$(asked '/.*/by-hash/.*')" "$1"
    is "packages that it was asked for" "$(asked '/pool/.*')" "$2"
    is "indexes by name" "$(asked '/.*/Packages.*')" 0
}

say "A machine at each edge. The first needs the origin, for one index and one package."
for edge in "${edges[@]}"; do
    install 1.0
    counts 1 1
done

say "New machines, once more at each: nothing of it is asked for at the origin."
for edge in "${edges[@]}"; do
    install 1.0
done
counts 1 1
try 'grep -h "by-hash\|pool" "$stage/files.err"'
releases=$(asked '/dists/stable/Release')
is "questions whether the Release is still the same, one for each machine" "$releases" 6
is "answers that it is" "$(grep -c '"GET /dists/stable/Release HTTP/1.1" 304' "$stage/files.err")" 5

say "A new version; but first, a bit of the new index is wrong on the disk."
cd "$stage"
try 'add 1.1'
try 'index'
fresh=$(sed -n 's|^ \([0-9a-f]*\) .*/Packages.gz$|\1|p' repository/dists/stable/Release)
fresh=dists/stable/main/binary-$arch/by-hash/SHA256/$fresh
cp "repository/$fresh" right
try 'flip "repository/$fresh" 100'
for edge in "${edges[@]}"; do
    is "the status" "$(curl -sS -o got -w '%{http_code}' "$edge/$fresh")" 502
done
cp right "repository/$fresh"
until_so all_give "$fresh" right

say "It is mended, and every machine hears of the new version with its next update, by whichever edge."
before=$(asked '/.*/by-hash/.*')
for edge in "${edges[@]}"; do
    install 1.1
    is "the version" "$(dpkg-deb --field hello-edge_1.1_all.deb Version)" 1.1
done
counts "$before" 2

say "What the web server says nothing of passes: no name of a package holds a hash, so nothing tells an edge that it may keep it."
cd "$stage"
mkdir repository/unsaid
cp repository/pool/main/h/hello-edge/hello-edge_1.1_all.deb repository/unsaid/
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%header{cache-status}\n" "$edge/unsaid/hello-edge_1.1_all.deb"'
done
is "requests at the origin for it" "$(asked '/unsaid/.*')" 3

say "All of it was so."
