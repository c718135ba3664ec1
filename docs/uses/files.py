"""A folder over HTTP, as any plain web server has it: no ETag, no digests.

files.py FOLDER [GLOB=CACHE-CONTROL...]: what is found under a path like GLOB has
this Cache-Control, as after `add_header` in nginx. It prints where it listens,
and a line for each request on standard error.
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
