"""The command line, in a process of its own, as a person would call it."""

import io
import os
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from cvae_lib.__main__ import main


def call(*words: str, folder=None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cvae_lib", *words]
    surroundings = os.environ | environment
    return subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_seven_as_a_picture_in_a_fresh_process(tmp_path):
    done = call("draw", "7", folder=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert (tmp_path / "7.png").read_bytes().startswith(b"\x89PNG") and "7.png" in done.stdout


def test_arrays_have_the_promised_shape_and_follow_the_seed(tmp_path):
    def drawn(seed):
        assert main(["draw", "3", "--count", "5", "--seed", str(seed), "--out", str(tmp_path / "x.npy")]) == 0
        return np.load(tmp_path / "x.npy", allow_pickle=False)

    first = drawn(1)
    assert first.shape == (5, 28, 28) and first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, drawn(1)) and not np.array_equal(first, drawn(2))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (12, 2, 10)])
def test_the_picture_shows_the_array_row_by_row_dark_on_white(count, rows, columns, tmp_path):
    for end in ("npy", "png"):
        assert main(["draw", "3", "--count", str(count), "--out", str(tmp_path / f"x.{end}")]) == 0
    array = np.load(tmp_path / "x.npy", allow_pickle=False)
    sheet = matplotlib.image.imread(tmp_path / "x.png")
    pitch = (sheet.shape[0] // rows, sheet.shape[1] // columns)
    assert sheet.shape[:2] == (rows * 90, columns * 90)
    assert (sheet[..., 0] == sheet[..., 1]).all() and (sheet[..., 0] == sheet[..., 2]).all()
    grey = sheet[..., 0]
    for place in range(rows * columns):
        top, left = place // columns * pitch[0], place % columns * pitch[1]
        tile = grey[top + 3 : top + 87 : 3, left + 3 : left + 87 : 3]
        expected = 1 - array[place] if place < count else np.ones((28, 28))
        np.testing.assert_allclose(tile, expected, atol=0.5 / 255 + 1e-6)
    assert (grey[:3] == 1).all() and (grey[:, :3] == 1).all()  # white between them


def test_the_same_seed_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        assert main(["draw", "2", "--count", "3", "--seed", "5", "--out", str(tmp_path / f"{name}.png")]) == 0
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in data.lower()  # nor does it depend on a version
    assert matplotlib.image.imread(io.BytesIO(data)).ndim == 3


def test_drawing_needs_nothing_of_the_course(tmp_path):
    script = (
        "import sys; from cvae_lib.__main__ import main; main(['draw', '7']); "
        "print([name for name in sys.modules if name.startswith('cvae_lib.course')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_terminal_that_knows_only_ascii_is_no_obstacle(tmp_path):
    done = call("draw", "7", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii()


@pytest.mark.parametrize(
    "words",
    [
        ("draw", "11"),
        ("draw", "seven"),
        ("draw", "-1"),
        ("draw", "7", "--count", "0"),
        ("draw", "7", "--count", "many"),
        ("draw", "7", "--out", "seven.gif"),
        ("draw", "7", "--seed", "-3"),
        ("draw",),
        (),
        ("paint", "7"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("place", ["no/such/{file}/7.png", "{file}/7.png"])
def test_an_unwritable_file_gets_one_line_and_exit_code_2(place, tmp_path, capsys):
    (tmp_path / "file").write_text("a file where a folder is needed")
    target = tmp_path / place.format(file="file") if place.startswith("{") else "/proc/none/7.png"
    assert main(["draw", "7", "--out", os.fspath(target)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
