"""An S3 server on this machine, and what can go wrong with one."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_SESSION_TOKEN": "session-token",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


def refusal(status, code, message):
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


SERVER_ERROR = refusal("500 Internal Server Error", "InternalError", "We had an internal error.")
SLOW_DOWN = refusal("503 Slow Down", "SlowDown", "Please reduce your request rate.")
EXPIRED = refusal("400 Bad Request", "ExpiredToken", "The provided token has expired.")
DENIED = refusal("403 Forbidden", "AccessDenied", "Access Denied")


@dataclass
class Faults:
    """A WSGI application that stands before another and counts, delays and refuses requests.

    Attributes:
        asked: requests by method, path (with `?list` for listings) and both.
        refuse: takes method, path and how often both were asked; returns an answer or None.
        after: as `refuse`, once the request has been carried out: its answer gets lost.
        wait: as `refuse`, returns seconds.
    """

    app: Callable
    asked: Counter = field(default_factory=Counter)
    refuse: Callable | None = None
    after: Callable | None = None
    wait: Callable | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def calm(self):
        self.refuse = self.after = self.wait = None
        self.asked.clear()

    def __call__(self, environ, start_response):
        method = environ["REQUEST_METHOD"]
        path = unquote(environ["PATH_INFO"].encode("latin-1").decode("utf-8"))
        listing = "list-type=" in environ["QUERY_STRING"]
        kind = "LIST" if listing else method
        with self.lock:
            self.asked.update([kind, (kind, path)])
            count = self.asked[kind, path]
        if self.wait is not None:
            self.over.wait(self.wait(kind, path, count) or 0)
        answer = self.refuse(kind, path, count) if self.refuse is not None else None
        if answer is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        elif self.after is not None:
            answer = self.after(kind, path, count)
            if answer is not None:
                b"".join(self.app(environ, lambda *facts: None))
        if answer is None:
            return self.app(environ, start_response)
        status, body = answer
        start_response(status, [("Content-Type", "application/xml")])
        return [b"" if method == "HEAD" else body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *arguments):
        pass


@dataclass
class Server:
    """A running S3 server; `faults` stands before it."""

    url: str
    faults: Faults


@contextmanager
def s3_in_environment():
    """A server that this process, and those that it starts, take for S3."""
    with pytest.MonkeyPatch.context() as patch, s3_server() as server:
        for key, value in KEYS.items():
            patch.setenv(key, value)
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@contextmanager
def s3_server():
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{server.server_port}", faults)
    faults.over.set()
    server.shutdown()
    thread.join()
    server.server_close()
