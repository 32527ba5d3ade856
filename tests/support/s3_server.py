"""Run a real S3 server (moto's, in a process of its own) behind a proxy that injects faults on demand."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "features"
KEY_ID, SECRET = "AKIAONLYFORTHISTEST0", "secret-that-must-not-be-seen-anywhere"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": "token-that-must-not-be-seen-either",
    "AWS_REGION": "eu-central-1",
}

Fault = str | None
"""``500``, ``503``: that answer. ``hang``: none in time. ``cut upload``: the connection ends within the request, which
never reaches the server. ``cut answer``: the server did it, the answer is lost. ``half answer``: it ends in the middle.
``403``: refused, with a document that repeats the key id, as S3's does."""

Plan = Callable[[str, str], Fault]
"""A function from a request's method and path to its fault."""

_CODES = {"500": "InternalError", "503": "SlowDown", "403": "SignatureDoesNotMatch"}
_HANG_SECONDS = 600  # longer than anyone waits who has no timeout


def healthy(method: str, path: str) -> Fault:
    return None


def every(number: int, fault: str, *methods: str) -> Plan:
    """Return a plan with that fault at every ``number``th request of these methods."""
    count = 0
    lock = threading.Lock()

    def plan(method: str, path: str) -> Fault:
        nonlocal count
        with lock:
            count += method in methods
            return fault if method in methods and count % number == 0 else None

    return plan


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the server except for the faults of ``plan``; changes go one at a time.

    moto looks at a condition and then writes, on threads of its own: without this two conditional puts could both win.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = port
        self.plan: Plan = healthy
        self.seen: list[tuple[str, str]] = []
        self.answers: list[tuple[str, str, int]] = []
        """Path and range of each request that was answered, and the bytes of the answer's body, whole or not."""
        self.latency_seconds = 0.0
        """What every request waits, beside each other, before it is looked at."""
        self.most_at_once = 0
        """Largest number of requests that waited at the same time."""
        self.waiting = 0
        self.changes = threading.Lock()
        self.counting = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def bytes_answered(self) -> int:
        """Return the number of bytes of all answers' bodies."""
        return sum(size for _, _, size in self.answers)

    def wait(self) -> None:
        """Let a request wait its latency, and count those that do."""
        with self.counting:
            self.waiting += 1
            self.most_at_once = max(self.most_at_once, self.waiting)
        time.sleep(self.latency_seconds)
        with self.counting:
            self.waiting -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error of a client that gave up, which is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or the second waits 40 ms for the first's acknowledgement
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _pass_on(self) -> None:
        self.server.wait()
        fault = self.server.plan(self.command, self.path)
        self.server.seen.append((self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut upload":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault == "hang":
            time.sleep(_HANG_SECONDS)
            self._hang_up()
        elif fault in _CODES:
            document = f"<Error><Code>{_CODES[fault]}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
            self._answer(int(fault), {"Content-Type": "application/xml"}, document.encode())
        else:
            status, headers, content = self._ask(body)
            if fault == "cut answer":
                self._hang_up()
            else:
                self._answer(status, headers, content, half=fault == "half answer")

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        lock = self.server.changes if self.command in ("PUT", "DELETE", "POST") else threading.Lock()
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=30)
        try:
            with lock:
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                return answer.status, dict(answer.headers), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.server.answers.append((self.path, self.headers.get("Range", ""), len(content)))
        self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def s3_proxy() -> Iterator[Proxy]:
    """Start a server with one bucket, BUCKET, and the proxy before it."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _make_bucket(port, server)
            proxy = Proxy(port)
            thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield proxy
            finally:
                proxy.shutdown()
                thread.join()
                proxy.server_close()
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _make_bucket(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            upstream.request("PUT", f"/{BUCKET}", b"", {"Host": f"127.0.0.1:{port}"})
            assert upstream.getresponse().status == 200
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
        finally:
            upstream.close()
    raise AssertionError("the server did not start within 30 s")


def environment() -> dict[str, str]:
    """Return the environment of a process that may use the server and has no other credentials."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | ENVIRONMENT
