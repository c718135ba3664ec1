"""Requests an asset three times on one verified TLS connection, then closes it in order."""

import http.client
import ssl
import sys

ca, port, path = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
connection = http.client.HTTPSConnection("localhost", int(port), context=context, timeout=20)
lengths = []
for _ in range(3):
    connection.request("GET", path)
    lengths.append(str(len(connection.getresponse().read())))
version = connection.sock.version()
# Waits for the edge's close_notify; fails at an end without it.
connection.sock.unwrap()
print(*lengths, version, "closed in order")
