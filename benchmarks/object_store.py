"""Objects in memory behind HTTP: as much of S3 as a fetch needs."""

from __future__ import annotations

import hashlib
import http.server
import threading
from typing import Any


class ObjectStore:
    """Answers GetObject by path-style addresses. A context manager: it serves until the end of the block."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, str]] = {}
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                found = store._objects.get(self.path)
                self.send_response(404 if found is None else 200)
                data, etag = found or (b"", "")
                self.send_header("ETag", f'"{etag}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> ObjectStore:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """For DEDUP_S3_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Keep an object; returns its ETag."""
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._objects[f"/{bucket}/{key}"] = (data, etag)
        return etag
