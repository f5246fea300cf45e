"""A small MNIST in the true file format, and a local server that hands it out well or badly."""

import gzip
import hashlib
import math
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def idx(*shape: int) -> bytes:
    """Return an idx file of unsigned bytes of this shape."""
    count = math.prod(shape)
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return head + bytes(i * 7 % 10 for i in range(count))


RAW = {name: idx(*((20, 28, 28) if "idx3" in name else (20,))) for name in FILES}
PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in RAW.items()}
MD5 = [(name, hashlib.md5(content).hexdigest()) for name, content in PACKED.items()]


def on_disk(root: Path) -> dict[str, bytes]:
    """Return every file below a folder, by name."""
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lay_out(root: Path, **changed: bytes) -> Path:
    """Lay the unpacked files out as torchvision does, some of them changed, and return their folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in RAW.items():
        (raw / name).write_bytes(changed.get(name, content))
    return raw


class Server(ThreadingHTTPServer):
    """Serves the packed files; the first part of the address says how."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()

    def mirror(self, manner: str) -> str:
        """Return the address of the mirror that behaves in this manner."""
        return f"http://127.0.0.1:{self.server_port}/{manner}/"


class Handler(BaseHTTPRequestHandler):
    """Answers in the manner that the address asks for; a waiting answer ends with the test."""

    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        manner, name = self.path.strip("/").split("/")
        body = PACKED[name]
        if manner == "missing":
            return self.send_error(404)
        if manner == "silent":
            self.server.over.wait(60)
            return None
        if manner == "garbled":
            self.wfile.write(b"good morning\r\n\r\n")
            return None
        self.send_response(200)
        if manner == "changed":
            body = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
        self.send_header("Content-Length", str(len(body) // 2 if manner == "short" else len(body)))
        self.end_headers()
        if manner == "trickling":
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.server.over.wait(0.02):
                    break
            return None
        self.wfile.write(body[: len(body) // 2] if manner in ("cut", "short", "stalling") else body)
        if manner == "stalling":
            self.server.over.wait(60)
        return None
