"""The command line, in a process of its own, as a person would call it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cvae_lib.__main__ import main


def call(*words: str, folder=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cvae_lib", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_seven_as_a_picture_in_a_fresh_process(tmp_path):
    done = call("draw", "7", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "7.png").read_bytes().startswith(b"\x89PNG") and "7.png" in done.stdout


def test_arrays_have_the_promised_shape_and_follow_the_seed(tmp_path):
    def drawn(seed):
        assert main(["draw", "3", "--count", "5", "--seed", str(seed), "--out", str(tmp_path / "x.npy")]) == 0
        return np.load(tmp_path / "x.npy", allow_pickle=False)

    first = drawn(1)
    assert first.shape == (5, 28, 28) and first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, drawn(1)) and not np.array_equal(first, drawn(2))


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
