"""Serves a folder over HTTP like a plain web server, without ETag and digests.

files.py FOLDER [GLOB=CACHE-CONTROL...]: responses for paths that match GLOB have this
Cache-Control, as with `add_header` in nginx. Prints its URL on standard output, and a
line for each request on standard error.
"""

import fnmatch
import functools
import http.server
import sys

folder, *rules = sys.argv[1:]
rules = [rule.split("=", 1) for rule in rules]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send_response(self, code, message=None):
        super().send_response(code, message)
        control = next((control for glob, control in rules if fnmatch.fnmatchcase(self.path, glob)), None)
        if control and code in (200, 304):
            self.send_header("Cache-Control", control)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
