"""A web server that answers ranges of a folder's files: ``python -m tests.ranges FOLDER``.

In a process of its own, as GDAL keeps Python waiting while it waits for an answer. Prints its port, then a
line for each request.
"""

from __future__ import annotations

import http.server
import sys
from pathlib import Path


class Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = Path(sys.argv[1]) / self.path.lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        print(self.path, flush=True)  # noqa: T201  # for who has started it
        body, wanted = path.read_bytes(), self.headers.get("Range")
        first, _, last = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last or len(body)) + 1]
        self.send_response(200 if wanted is None else 206)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET  # noqa: N815  # the name that the library looks for

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        print(server.server_port, flush=True)  # noqa: T201  # likewise
        server.serve_forever()
