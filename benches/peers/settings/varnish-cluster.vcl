# A self-routing cluster with the shard director: a node asks the owner on a miss. It asks the
# origin for its own keys, and for requests at the peers' port.
vcl 4.1;

import directors;

probe alive {
    .url = "/alive";
    .interval = 250ms;
    .timeout = 200ms;
    .window = 3;
    .threshold = 2;
    .initial = 3;
}

backend origin {
    .host = "127.0.0.1";
    .port = "@ORIGIN_PORT@";
}
@PEERS@

sub vcl_init {
    new cluster = directors.shard();
@ADD@
    cluster.reconfigure();
}

sub vcl_recv {
    if (req.url == "/alive") {
        return (synth(200));
    }
    unset req.http.Cookie;
    # Clients cannot set this header.
    unset req.http.X-From-Peer;
    if (local.socket == "peers") {
        set req.http.X-From-Peer = "1";
    }
}

sub vcl_backend_fetch {
    # A peer that did not answer is passed over for the next one in rank.
    set bereq.backend = cluster.backend(by=URL, alt=bereq.retries, resolve=NOW);
    if (bereq.http.X-From-Peer || "" + bereq.backend == server.identity) {
        set bereq.backend = origin;
    }
}

sub vcl_backend_error {
    if (bereq.retries < 2) {
        return (retry);
    }
}
