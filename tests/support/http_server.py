"""A local file server that misbehaves on request: ranges, cut connections, refusals."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A local file server that misbehaves on request."""

    def __init__(self, content, path="/net.pth"):
        self.content, self.etag = content, '"one"'
        self.ranges = True
        self.cut_after = []  # bytes after which the next answers end
        self.refusals = []  # status codes of the next answers
        self.redirect_digest = None
        self.asked = []  # the Range header of every request
        self.paths = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.root = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.url = f"{self.root}{path}"

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        self.paths.append(request.path)
        if self.refusals:
            return request.send_error(self.refusals.pop(0))
        if self.redirect_digest and request.path == self.url.removeprefix(self.root):
            request.send_response(302)
            request.send_header("X-Linked-ETag", f'"{self.redirect_digest}"')
            request.send_header("Location", f"{self.root}/elsewhere")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return None
        same = request.headers.get("If-Range") == self.etag
        start = int(wanted.split("=")[1].rstrip("-")) if wanted and self.ranges and same else 0
        if start > len(self.content):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        if start:
            last = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{last - 1}/{last}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        cut = self.cut_after.pop(0) if self.cut_after else len(self.content)
        request.wfile.write(self.content[start : start + cut])
        return None

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
