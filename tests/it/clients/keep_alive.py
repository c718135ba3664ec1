"""Sends several requests on one connection with Python's http.client."""

import email
import http.client
import sys

host, port, path, file = sys.argv[1:]
content = open(file, "rb").read()

connection = http.client.HTTPConnection(host, int(port), timeout=20)
connection.connect()
socket = connection.sock


def ask(method, **fields):
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    assert connection.sock is socket, f"a new connection was opened for {method} {headers}"
    return answer, body


answer, body = ask("GET")
assert (answer.status, answer.version, body) == (200, 11, content), answer.status
tag, modified = answer.headers["ETag"], answer.headers["Last-Modified"]
assert tag and modified

answer, body = ask("HEAD")
assert (answer.status, body) == (200, b"")
assert answer.headers["Content-Length"] == str(len(content))
assert ";hit" in answer.headers["Cache-Status"], answer.headers["Cache-Status"]

for condition in {"If_None_Match": tag}, {"If_None_Match": "*"}, {"If_Modified_Since": modified}:
    answer, body = ask("GET", **condition)
    assert (answer.status, body) == (304, b""), (condition, answer.status)
    assert answer.headers["ETag"] == tag
answer, body = ask("GET", If_None_Match='"another"')
assert (answer.status, body) == (200, content)

answer, body = ask("GET", Range="bytes=-10")
assert (answer.status, body) == (206, content[-10:])
assert answer.headers["Content-Range"] == f"bytes {len(content) - 10}-{len(content) - 1}/{len(content)}"
answer, body = ask("GET", Range="bytes=5-9", If_Range='"another"')
assert (answer.status, body) == (200, content)
answer, body = ask("GET", Range="bytes=100000-")
assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(content)}")

# The parts of several ranges, parsed by the email library.
answer, body = ask("GET", Range="bytes=0-9,200-209")
assert answer.status == 206
message = email.message_from_bytes(b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
parts = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.get_payload()]
assert not message.defects, message.defects
assert parts == [
    (f"bytes 0-9/{len(content)}", content[0:10]),
    (f"bytes 200-209/{len(content)}", content[200:210]),
], parts

answer, body = ask("GET")
assert (answer.status, body) == (200, content)
print("done")
