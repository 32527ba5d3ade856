"""A read-only S3 server over a folder of files, with a latency and a bandwidth, and counters of what it answered.

It knows what reading needs: GET of an object or a range of it, HEAD, and listings (ListObjectsV2). Every request waits
its latency beside the others; the bandwidth is shared. It runs as a process of its own, so that a client has its
interpreter to itself.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen
from xml.sax.saxutils import escape

BUCKET = "images"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_REGION": "eu-central-1"}
_MODIFIED = "Sun, 01 Nov 2026 00:00:00 GMT"
_COUNTS = "/counts"


class _Answer(NamedTuple):
    status: str
    headers: dict[str, str]
    body: bytes


class _Server:
    def __init__(self, root: Path, latency_seconds: float, bytes_per_second: float) -> None:
        self.files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
        self.keys = sorted(self.files)
        self.e_tags = {key: f'"{hashlib.md5(path.read_bytes()).hexdigest()}"' for key, path in self.files.items()}
        self.latency_seconds = latency_seconds
        self.bytes_per_second = bytes_per_second
        self.free_at = 0.0
        self.counts = {"requests": 0, "bytes": 0}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                method, target, _ = request.split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
                answer = self._answer(method, target, headers)
                if target != _COUNTS:
                    await self._wait(len(answer.body) if method == "GET" else 0)
                fields = {"Content-Length": str(len(answer.body)), **answer.headers}
                writer.write(f"HTTP/1.1 {answer.status}\r\n".encode())
                writer.write("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + b"\r\n")
                writer.write(b"" if method == "HEAD" else answer.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _wait(self, size: int) -> None:
        self.counts["requests"] += 1
        self.counts["bytes"] += size
        now = asyncio.get_running_loop().time()
        self.free_at = max(self.free_at, now) + size / self.bytes_per_second
        await asyncio.sleep(self.latency_seconds + self.free_at - now)

    def _answer(self, method: str, target: str, headers: dict[str, str]) -> _Answer:
        if target == _COUNTS:
            return _Answer("200 OK", {}, json.dumps(self.counts).encode())
        url = urlsplit(target)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        if not key:
            return self._listing({name: values[0] for name, values in parse_qs(url.query).items()})
        if key not in self.files:
            return _Answer("404 Not Found", {}, b"<Error><Code>NoSuchKey</Code></Error>")
        body = self.files[key].read_bytes()
        about = {"ETag": self.e_tags[key], "Last-Modified": _MODIFIED}
        if not (wanted := headers.get("range")):
            return _Answer("200 OK", about, body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1 if last else None]
        about["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        return _Answer("206 Partial Content", about, part)

    def _listing(self, query: dict[str, str]) -> _Answer:
        prefix, after = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", "")
        found = [key for key in self.keys[bisect_right(self.keys, after) :] if key.startswith(prefix)]
        page = found[:1000]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(found) > 1000 else ""
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.e_tags[key])}</ETag><Size>{self.files[key].stat().st_size}</Size></Contents>"
            for key in page
        )
        text = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{listed}</ListBucketResult>"
        )
        return _Answer("200 OK", {"Content-Type": "application/xml"}, text.encode())


class ObjectServer(NamedTuple):
    """A running server."""

    endpoint: str

    def counts(self) -> dict[str, int]:
        """Return how many requests it has answered, and with how many bytes of bodies."""
        with urlopen(self.endpoint + _COUNTS) as answer:
            counts: dict[str, int] = json.loads(answer.read())
        return counts

    def address(self, key: str) -> str:
        """Return the address of an object, or of all below a folder."""
        return f"s3://{BUCKET}/{key}?endpoint={self.endpoint}"


@contextmanager
def object_server(
    root: Path, *, latency_seconds: float = 0.0, bytes_per_second: float = float("inf")
) -> Iterator[ObjectServer]:
    """Serve the files below ``root`` as the objects of BUCKET; a client needs ENVIRONMENT."""
    command = [sys.executable, __file__, str(root), str(latency_seconds), str(bytes_per_second)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield ObjectServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


async def _run(server: _Server) -> None:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_run(_Server(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))))
