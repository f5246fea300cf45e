"""Having idx files on disk: each is whole or absent, and every failure is one sentence.

torchvision says where the files are and what their md5 sums are; its own download has no time-out and leaves
half-written files behind. So the bytes are fetched, checked and unpacked in memory, then moved into place.
"""

import errno
import gzip
import hashlib
import http.client
import math
import os
import socket
import tempfile
import textwrap
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from cvae_lib.environment import shows_progress, write_atomically

TIMEOUT = 10.0  # seconds for connecting, and for each wait for more bytes
SLOWEST = 1024.0  # bytes per second; a mirror slower than this counts as hanging

# SHA-256 of the unpacked file, by the md5 of the packed one: published for MNIST. It finds damage that leaves
# the length alone. Files not listed are checked by header and length.
UNPACKED_SHA256 = {
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "d53e105ee54ea40749a09fcbcd1e9432": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "9fb629c4189551a2d022fa330f9573f3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ec29112dd5afa0611ce80d1b7f02629c": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DataUnavailable(RuntimeError):
    """A dataset cannot be had; its message is one sentence, the ``cause`` and then the ``remedy``."""

    def __init__(self, cause: str, remedy: str, instead: str = "strokes()") -> None:
        super().__init__(cause, remedy, instead)
        self.cause = cause
        self.remedy = remedy
        self.instead = instead  # what needs no file

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}, or use the built-in {self.instead}."


class _MirrorFailed(Exception):
    """One mirror did not give one file; the message completes a sentence that begins with its host."""


@dataclass(frozen=True)
class Source:
    """A dataset of packed idx files: its name, its folder, its mirrors, and (file name, md5) pairs."""

    name: str
    folder: Path
    mirrors: Sequence[str]
    resources: Sequence[tuple[str, str]]

    @property
    def layout(self) -> str:
        """The last two parts of the folder, as a reader has to recreate them: ``MNIST/raw``."""
        return "/".join(self.folder.parts[-2:])


def idx_flaw(head: bytes, size: int, dims: int) -> str | None:
    """Return what is wrong with an idx file of unsigned bytes, or None.

    The file begins with the bytes 0, 0, 8, ``dims`` and then ``dims`` big-endian 32-bit lengths; its size is
    4 + 4 dims + the product of the lengths.

    Args:
        head: the first bytes of the file, at least 4 + 4 ``dims`` of them where there are so many.
        size: length of the file in bytes.
        dims: number of dimensions, 1 for labels and 3 for images.
    """
    begin = 4 + 4 * dims
    if len(head) < begin or head[:4] != bytes([0, 0, 8, dims]):
        return "does not begin as an idx file"
    lengths = [int.from_bytes(head[i : i + 4], "big") for i in range(4, begin, 4)]
    promised = begin + math.prod(lengths)
    return None if size == promised else f"is {size} bytes long where its header promises {promised}"


def _dims(path: Path) -> int:
    return int(path.name.split("-idx")[1][0])


def file_flaw(path: Path, md5: str) -> str | None:
    """Return what is wrong with an unpacked file (missing, unreadable, cut, changed), or None if it is whole.

    Args:
        path: the unpacked idx file.
        md5: the sum of its packed form, by which the sum of the unpacked one is known.
    """
    try:
        with path.open("rb") as file:
            flaw = idx_flaw(file.read(16), os.fstat(file.fileno()).st_size, _dims(path))
            if flaw or md5 not in UNPACKED_SHA256:
                return flaw
            file.seek(0)
            whole = hashlib.file_digest(file, "sha256").hexdigest() == UNPACKED_SHA256[md5]
            return None if whole else "has the wrong checksum"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def ensure_whole(source: Source, refusal: str | None = None) -> None:
    """Make sure that every file of ``source`` is on disk, unpacked and whole; fetch those that are not.

    Args:
        source: what is wanted, and where it may be fetched.
        refusal: why nothing may be fetched, or None if it may.

    Raises:
        DataUnavailable: if a file is missing or broken and cannot be replaced.
    """
    mirrors = list(source.mirrors)
    for packed, md5 in source.resources:
        path = source.folder / packed.removesuffix(".gz")
        flaw = file_flaw(path, md5)
        if flaw is None:
            continue
        content = _packed_on_disk(source.folder / packed, md5)
        if content is None and refusal:
            remedy = "" if flaw == "is missing" else "delete it, "
            remedy += f"allow the download or set CVAE_DATA to a folder that holds {source.layout}"
            raise DataUnavailable(f"{path} {flaw} and {refusal}", remedy)
        # Asked before the download: nobody should wait for megabytes that cannot be kept.
        _prepare(source.folder)
        if content is None:
            content = _from_mirrors(source, mirrors, packed, md5, flaw)
        try:
            write_atomically(path, content)
        except OSError as error:
            raise _disk_trouble(error, source.folder) from error


def _packed_on_disk(path: Path, md5: str) -> bytes | None:
    """Return the unpacked content of a packed file that lies in the folder already, None if it is no good."""
    try:
        return _unpack(path.read_bytes(), md5, path)
    except (OSError, _MirrorFailed):
        return None


def _from_mirrors(source: Source, mirrors: list[str], packed: str, md5: str, flaw: str) -> bytes:
    """Return the unpacked file from the first mirror that has it; one that fails moves to the end."""
    path = source.folder / packed.removesuffix(".gz")
    failures = []
    for mirror in tuple(mirrors):
        try:
            return _unpack(_fetch(mirror + packed), md5, path)
        except _MirrorFailed as failure:
            failures.append(f"{urlsplit(mirror).netloc} {failure}")
            mirrors.remove(mirror)
            mirrors.append(mirror)
    remedy = f"check the connection, set CVAE_DATA to a folder that holds {source.layout}"
    if flaw == "is missing":
        cause = f"{source.name} cannot be downloaded ({packed}: {', '.join(failures)})"
    else:
        cause = f"{path} {flaw} and cannot be downloaded again ({', '.join(failures)})"
        remedy = f"delete it, {remedy}"
    raise DataUnavailable(cause, remedy)


def _fetch(url: str) -> bytes:
    """Return the body behind ``url``, all of it, or raise _MirrorFailed within about ``TIMEOUT``."""
    from tqdm import tqdm

    body = bytearray()
    try:
        with urlopen(Request(url, headers={"User-Agent": "cvae_lib"}), timeout=TIMEOUT) as answer:
            promised: int | None = answer.length
            name, idle = url.rsplit("/", 1)[-1], not shows_progress()
            with tqdm(total=promised, desc=name, unit="B", unit_scale=True, disable=idle, leave=False) as bar:
                seen, due = 0, time.monotonic() + TIMEOUT
                while chunk := answer.read1(1 << 16):
                    body += chunk
                    bar.update(len(chunk))
                    if time.monotonic() > due:  # a trickle never trips the socket's own time-out
                        if len(body) - seen < SLOWEST * TIMEOUT:
                            raise _MirrorFailed(f"sent less than {SLOWEST:g} bytes per second")
                        seen, due = len(body), time.monotonic() + TIMEOUT
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorFailed(_reason(error)) from error
    if promised is not None and len(body) != promised:
        raise _MirrorFailed(f"sent {len(body)} of {promised} bytes")
    return bytes(body)


def _reason(error: Exception) -> str:
    """Say what happened, as the rest of a sentence that begins with the mirror's host."""
    if isinstance(error, HTTPError):
        return f"answered {error.code} {error.reason}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"sent nothing for {TIMEOUT:g} s"
    if isinstance(error, socket.gaierror):
        return "was not found"
    detail = getattr(error, "strerror", None) or first_line(error)
    what = "broke off" if isinstance(error, http.client.HTTPException) else "was not reached"
    return f"{what}: {detail}"


def first_line(error: Exception) -> str:
    """Return the beginning of an error's message, short enough to stand inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[0], 120, placeholder=" ...").rstrip(".")


def _unpack(content: bytes, md5: str, path: Path) -> bytes:
    """Return the unpacked content if the packed one has the right md5 and unpacks to a whole idx file."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise _MirrorFailed("sent a file with the wrong checksum")
    try:
        unpacked = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _MirrorFailed("sent a file that does not unpack") from error
    if flaw := idx_flaw(unpacked[:16], len(unpacked), _dims(path)):
        raise _MirrorFailed(f"sent a file that {flaw}")
    return unpacked


def _prepare(folder: Path) -> None:
    """Make the folder, and prove that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _disk_trouble(error, folder) from error


def _disk_trouble(error: OSError, folder: Path) -> DataUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free about 70 MB, set CVAE_DATA to a folder on another disk"
        return DataUnavailable(f"The disk that holds {folder} is full", remedy)
    cause = f"The folder {folder} cannot be written ({error.strerror or error})"
    return DataUnavailable(cause, "set CVAE_DATA to a folder you may write to")
