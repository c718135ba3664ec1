#!/usr/bin/env bash
# A Debian repository behind three edges, and apt that gets an update and a package
# through them. docs/uses/content-store.md explains it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need apt-ftparchive apt-get curl dpkg dpkg-deb python3 gzip sha256sum
cd "$stage"

say "A repository with one package. Its indexes also have names by hash; apt requests these if the Release says so."
arch=$(dpkg --print-architecture)
# add VERSION: builds a package and adds it to the pool.
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
# index: writes the indexes, and last the Release, which lists their hashes.
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
# Validation uses the file's modification time, which this origin states in whole seconds.
touch -d yesterday repository/dists/stable/Release
try 'cat repository/dists/stable/Release'

say "The web server allows a package to be stored for ever, because a changed package has another version. Everything else must be revalidated each time. Indexes by hash need no revalidation, and the three edges in front have a rule for them."
serve_files "$stage/repository" \
    '/pool/*=public, max-age=31536000, immutable' \
    '/dists/*=no-cache'
start_edges "$files_url" '
[cache]
wrong_content_ttl = "1s"
immutable_sets = ["by-hash"]
'

# machine NAME: sets up apt as on a fresh machine. It reads and writes nothing outside
# this folder.
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

# install VERSION: updates and downloads the package on a fresh machine.
machines=0
install() {
    machine "machine-$((machines += 1))"
    try 'apt-get -q update'
    try 'apt-get -q download hello-edge'
    cmp "hello-edge_$1_all.deb" "$stage/repository/pool/main/h/hello-edge/hello-edge_$1_all.deb"
}
counts() {
    is "requests at the origin for indexes by hash" "$(asked '/.*/by-hash/.*')" "$1"
    is "requests at the origin for packages" "$(asked '/pool/.*')" "$2"
    is "requests at the origin for indexes by name" "$(asked '/.*/Packages.*')" 0
}

say "One machine at each edge. The first causes requests to the origin, for one index and one package."
for edge in "${edges[@]}"; do
    install 1.0
    counts 1 1
done

say "Another fresh machine at each edge: the origin gets no request for an index or a package."
for edge in "${edges[@]}"; do
    install 1.0
done
counts 1 1
try 'grep -h "by-hash\|pool" "$stage/files.err"'
releases=$(asked '/dists/stable/Release')
is "requests at the origin for the Release, one for each machine" "$releases" 6
is "304 responses to them" "$(grep -c '"GET /dists/stable/Release HTTP/1.1" 304' "$stage/files.err")" 5

say "A new version. At first one bit of the new index is wrong on the disk."
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

say "Once the index is repaired, every machine gets the new version with its next update, through any edge."
before=$(asked '/.*/by-hash/.*')
for edge in "${edges[@]}"; do
    install 1.1
    is "the version" "$(dpkg-deb --field hello-edge_1.1_all.deb Version)" 1.1
done
counts "$before" 2

say "A package without Cache-Control passes: its name has no hash, so nothing permits an edge to store it."
cd "$stage"
mkdir repository/unsaid
cp repository/pool/main/h/hello-edge/hello-edge_1.1_all.deb repository/unsaid/
for edge in "${edges[@]}"; do
    try 'curl -sS -o got -w "%header{cache-status}\n" "$edge/unsaid/hello-edge_1.1_all.deb"'
done
is "requests at the origin for this package" "$(asked '/unsaid/.*')" 3

say "All checks passed."
