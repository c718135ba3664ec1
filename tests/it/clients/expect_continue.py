"""Sends the body of a PUT after 100 Continue, and not before."""

import socket
import sys

host, port = sys.argv[1:]
body = b"the body, sent when asked for"
connection = socket.create_connection((host, int(port)), timeout=20)
lines = connection.makefile("rb")


def head():
    status = lines.readline()
    fields = dict(line.decode().strip().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
    return status, fields


# Twice on one connection: the file is made, then replaced.
for expected in b"201", b"204":
    connection.sendall(
        b"PUT /note-0492830483.txt HTTP/1.1\r\n"
        b"Host: site.example\r\n"
        b"Content-Length: %d\r\n"
        b"Expect: 100-continue\r\n"
        b"\r\n" % len(body)
    )
    # No body was sent yet, so only 100 Continue can arrive.
    status, fields = head()
    assert status == b"HTTP/1.1 100 Continue\r\n" and not fields, (status, fields)
    connection.sendall(body)
    status, fields = head()
    assert status.split()[1] == expected, (status, fields)
    lines.read(int(fields.get("content-length", 0)))
print("done")
