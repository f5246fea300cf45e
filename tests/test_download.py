"""Fetching MNIST from a local server that behaves, and from several that do not."""

import errno
import gzip
import hashlib
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mnist_server import FILES, MD5, PACKED, RAW, Server, idx, lay_out, on_disk
from torchvision.datasets import MNIST, FashionMNIST

from cvae_lib import data, environment
from cvae_lib.data import DataUnavailable
from cvae_lib.data._download import UNPACKED_SHA256

IMAGES = FILES[0]
Use = Callable[..., None]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's MNIST be the twenty images above, nowhere to be had until a test says where."""
    monkeypatch.setattr(MNIST, "resources", MD5)
    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("CVAE_OFFLINE", raising=False)
    monkeypatch.setattr("cvae_lib.data._download.TIMEOUT", 0.3)  # of ten seconds, for which no test should wait


@pytest.fixture
def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return a function that makes mirrors which behave in the given manners the only ones."""
    return lambda *manners: monkeypatch.setattr(MNIST, "mirrors", [server.mirror(m) for m in manners])


def _sentence(root: Path, **options: object) -> str:
    """Return the message with which mnist() fails, once it is known to be one sentence."""
    with pytest.raises(DataUnavailable) as caught:
        data.mnist(root=root, **options)
    message = str(caught.value)
    assert message.endswith("or use the built-in strokes().") and "\n" not in message
    assert not re.search(r"\.\s", message), "more than one sentence"
    return message


def test_a_download_gives_the_images_and_leaves_whole_files(server: Server, use: Use, tmp_path: Path) -> None:
    use("good")
    train = data.mnist(root=tmp_path)
    assert train.images.numpy().tobytes() == RAW[IMAGES][16:]
    assert train.labels.tolist() == list(RAW[FILES[1]][8:])
    assert on_disk(tmp_path) == RAW
    assert len(data.mnist("test", root=tmp_path)) == 20
    assert len(server.asked) == 4, "what is on disk must not be fetched again"


def test_fashion_mnist_comes_the_same_way(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FashionMNIST, "resources", MD5)
    monkeypatch.setattr(FashionMNIST, "mirrors", [server.mirror("good")])
    garments = data.fashion_mnist("test", root=tmp_path)
    assert garments.name == "Fashion-MNIST" and (tmp_path / "FashionMNIST" / "raw" / IMAGES).is_file()


def test_unpacked_files_alone_need_no_network(tmp_path: Path) -> None:
    lay_out(tmp_path)
    assert len(data.mnist(root=tmp_path)) == 20


def test_packed_files_on_disk_need_no_network(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in PACKED.items():
        (raw / name).write_bytes(content)
    assert len(data.mnist(root=tmp_path, download=False)) == 20


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("missing", r"answered 404 Not Found"),
        ("silent", r"sent nothing for 0\.3 s"),
        ("stalling", r"sent nothing for 0\.3 s"),
        ("trickling", r"sent less than 1024 bytes per second"),
        ("cut", r"sent \d+ of \d+ bytes"),
        ("short", r"sent a file with the wrong checksum"),
        ("changed", r"sent a file with the wrong checksum"),
        ("garbled", r"broke off: good morning"),
    ],
)
def test_a_bad_mirror_is_named_and_leaves_nothing(
    server: Server, use: Use, tmp_path: Path, manner: str, words: str
) -> None:
    use(manner)
    message = _sentence(tmp_path)
    file = rf"{IMAGES}\.gz: 127\.0\.0\.1:\d+ {words}"
    assert re.search(rf"^MNIST cannot be downloaded \({file}\); check", message)
    assert "CVAE_DATA to a folder that holds MNIST/raw" in message
    assert on_disk(tmp_path) == {}
    assert len(server.asked) == 1, "one file that cannot be had is enough"


def test_a_mirror_nobody_runs_and_a_name_nobody_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert "was not reached: Connection refused" in _sentence(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(MNIST, "mirrors", ["http://nowhere.invalid/"])
    assert "nowhere.invalid was not found" in _sentence(tmp_path)


def test_every_mirror_is_tried_and_named(use: Use, tmp_path: Path) -> None:
    use("missing", "cut")
    assert re.search(r"404 Not Found, 127\.0\.0\.1:\d+ sent \d+ of \d+ bytes", _sentence(tmp_path))


def test_a_hanging_mirror_is_waited_for_once_not_once_per_file(server: Server, use: Use, tmp_path: Path) -> None:
    use("silent", "good")
    assert len(data.mnist(root=tmp_path)) == 20
    assert [path.split("/")[1] for path in server.asked] == ["silent", "good", "good", "good", "good"]


@pytest.mark.parametrize("content", [b"", RAW[IMAGES], gzip.compress(RAW[IMAGES])[:-20]], ids=["empty", "raw", "cut"])
def test_a_right_checksum_does_not_excuse_a_bad_archive(
    use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    use("good")
    monkeypatch.setitem(PACKED, f"{IMAGES}.gz", content)
    monkeypatch.setattr(MNIST, "resources", [(f"{IMAGES}.gz", hashlib.md5(content).hexdigest())])
    assert re.search(r"sent a file that does not (unpack|begin)", _sentence(tmp_path))
    assert on_disk(tmp_path) == {}


DAMAGE = {
    "cut": (RAW[IMAGES][:-100], "is 15596 bytes long where its header promises 15696"),
    "long": (RAW[IMAGES] + b"0", "is 15697 bytes long where its header promises 15696"),
    "empty": (b"", "does not begin as an idx file"),
    "html": (b"<html>" * 100, "does not begin as an idx file"),
    "flipped": (RAW[IMAGES][:-1] + b"\xff", "has the wrong checksum"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_file_is_replaced_or_named_but_never_used(
    use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    content, flaw = DAMAGE[damage]
    whole = hashlib.sha256(RAW[IMAGES]).hexdigest()  # the small file's own, beside those of the published ones
    monkeypatch.setitem(UNPACKED_SHA256, dict(MD5)[f"{IMAGES}.gz"], whole)
    raw = lay_out(tmp_path, **{IMAGES: content})

    message = _sentence(tmp_path, download=False)
    assert message.startswith(f"{raw / IMAGES} {flaw} and download=False forbids fetching it; delete it, ")
    use("missing")
    message = _sentence(tmp_path)
    assert message.startswith(f"{raw / IMAGES} {flaw} and cannot be downloaded again (127.0.0.1:")
    assert "answered 404 Not Found); delete it, check the connection" in message
    assert (raw / IMAGES).read_bytes() == content, "the failed attempt must not touch it"

    use("good")
    assert data.mnist(root=tmp_path).images.numpy().tobytes() == RAW[IMAGES][16:]
    assert on_disk(tmp_path) == RAW


@pytest.mark.usefixtures("as_users_call")
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, **{FILES[1]: idx(19)})
    assert "labels must have shape (20,), not (19,)); delete that folder" in _sentence(tmp_path)


def test_nothing_is_fetched_when_nobody_wants_it(
    server: Server, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use("good")
    assert "is missing and download=False forbids fetching it" in _sentence(tmp_path, download=False)
    monkeypatch.setenv("CVAE_OFFLINE", "1")
    assert "is missing and CVAE_OFFLINE=1 forbids fetching it" in _sentence(tmp_path)
    assert server.asked == [] and list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file(server: Server, use: Use, tmp_path: Path) -> None:
    use("good")
    (tmp_path / "file").write_text("mine")
    message = _sentence(tmp_path / "file")
    folder = tmp_path / "file" / "MNIST" / "raw"
    assert message.startswith(f"The folder {folder} cannot be written (Not a directory)")
    assert "set CVAE_DATA to a folder you may write to" in message
    assert server.asked == [] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_root_where_nothing_can_be_made() -> None:
    assert "The folder /proc/data/MNIST/raw cannot be written" in _sentence(Path("/proc/data"))


def test_a_read_only_root(server: Server, use: Use, tmp_path: Path) -> None:
    use("good")
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert "cannot be written (Permission denied)" in _sentence(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert server.asked == []


def test_a_folder_that_takes_no_files(
    server: Server, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    use("good")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "cannot be written (Read-only file system)" in _sentence(tmp_path)
    assert server.asked == []


def test_a_full_disk(use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill_up(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    use("good")
    monkeypatch.setattr(os, "fsync", fill_up)
    message = _sentence(tmp_path)
    assert message.startswith(f"The disk that holds {tmp_path / 'MNIST' / 'raw'} is full; free about 70 MB")
    assert on_disk(tmp_path) == {}


def test_a_share_that_refuses_flushes_and_modes_still_keeps_the_files(
    use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    use("good")
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    assert len(data.mnist(root=tmp_path)) == 20
    assert on_disk(tmp_path) == RAW


def test_an_interrupt_leaves_no_half_file(use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    use("good")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.mnist(root=tmp_path)
    assert on_disk(tmp_path) == {}


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_shown_to_those_who_watch(
    use: Use,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    watched: bool,
) -> None:
    use("good")
    monkeypatch.setattr(environment.settings, "progress", watched)
    data.mnist(root=tmp_path)
    printed = capsys.readouterr()
    assert printed.out == "" and (IMAGES in printed.err) == watched and bool(printed.err) == watched


def test_torchvision_that_does_not_fit_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Broken())
    assert "torchvision cannot be imported (operator torchvision::nms does not exist)" in _sentence(tmp_path)


def test_digits_takes_what_the_server_gives(use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use("good")
    assert data.digits(root=tmp_path).name == "MNIST"
    assert capsys.readouterr().out == ""


def test_digits_asks_a_network_that_fails_only_once(
    server: Server, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use("missing", "cut")
    monkeypatch.setattr(environment.settings, "dataset", 20)
    for split in ("train", "test", "train"):
        assert data.digits(split, root=tmp_path).name == "strokes"
    assert len(server.asked) == 2, "each mirror once"
    assert capsys.readouterr().out.count("\n") == 1
