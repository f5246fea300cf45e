"""The course's surroundings: what importing it puts in force, and the report."""

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from cvae_lib import course, data, environment

ROOT = Path(__file__).resolve().parent.parent


def script(code: str, **environment: str) -> str:
    """Run code in a fresh process without the course's variables, but those given, and return what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "CVAE_"))}
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=kept, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the profile --------------------------------------------------------------------------------------------


def test_the_profile_is_full_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE")
    assert course.profile() == "full" and course.capped(1000, 3) == 1000
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert course.profile() == "fast" and course.capped(1000, 3) == 3 and course.capped(2, 3) == 2
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    with pytest.raises(ValueError, match="'full' or 'fast', not 'quick'"):
        course.profile()


SAY = "from cvae_lib import environment; s = environment.settings; print(s.steps, s.examples, s.samples, s.dataset)"


@pytest.mark.parametrize(
    ("first", "profile", "limits"),
    [
        ("", "fast", "None None None None"),  # the library alone takes no notice of the course's variables
        ("import cvae_lib.course; ", "fast", "30 200 5 2000"),
        ("import cvae_lib.course.figures; ", "fast", "30 200 5 2000"),
        ("import cvae_lib.course; ", "full", "None None None None"),
    ],
)
def test_the_profile_is_in_force_only_where_the_course_was_imported(first, profile, limits):
    assert script(first + SAY, COURSE_PROFILE=profile).strip() == limits


@pytest.mark.usefixtures("full_profile")
def test_the_full_profile_leaves_the_data_whole_and_the_fast_one_shortens_them(monkeypatch):
    assert len(data.strokes("test", count=2500)) == 2500 and len(data.forks("test", count=300).windows) == 300
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    course.enter()
    assert len(data.forks("test", count=300).windows) == course.FAST.examples == 200
    assert len(data.faces("test", count=2001)) == course.FAST.dataset == 2000


def test_the_course_trains_on_the_cpu_unless_another_device_is_named(monkeypatch):
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    course.enter()
    assert environment.pick_device() == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "meta")
    course.enter()
    assert environment.pick_device().type == "meta" and environment.pick_device("cpu").type == "cpu"
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    course.enter()
    with pytest.raises(ValueError, match="There is no device 'toaster'"):
        environment.pick_device()


def test_a_bar_is_shown_only_where_output_is_seen(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.delenv("COURSE_UNATTENDED", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    course.enter()
    assert environment.shows_progress()
    monkeypatch.setenv("COURSE_UNATTENDED", "1")
    course.enter()
    assert not environment.shows_progress()
    monkeypatch.delenv("COURSE_UNATTENDED")
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    course.enter()
    assert not environment.shows_progress()


# --- the report ---------------------------------------------------------------------------------------------


def finding(report: course.Report, what: str) -> course.Finding:
    return next(each for each in report.findings if each.what == what)


def test_the_report_says_what_to_do_where_something_is_missing(monkeypatch, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert "built-in strokes" in str(course.report(tmp_path))
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").touch()
    assert "found on disk" in str(course.report(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = str(course.report(tmp_path)).splitlines()
    missing = next(i for i, line in enumerate(lines) if "ipywidgets is missing" in line)
    assert lines[missing].startswith("!!") and "pip install ipywidgets" in lines[missing + 1]


def test_too_little_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(5 * 2**20))
    mnist = finding(course.report(tmp_path), "MNIST")
    assert not mnist.fine and "5 MB are left" in mnist.advice


def test_a_data_folder_that_cannot_be_written_is_named_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    mnist = finding(course.report(tmp_path / "file" / "data"), "MNIST")
    assert not mnist.fine and "cannot be written" in mnist.found and "CVAE_DATA" in mnist.advice


def test_a_device_that_is_not_there_is_a_line_of_the_report(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    course.enter()
    device = finding(course.report(), "device")
    assert not device.fine and "COURSE_DEVICE" in device.advice and "'toaster'" in device.advice


# As in containers and batch jobs: no HOME, and a user id of which the system knows no more than its number.
NOBODY = "import os, pwd\nos.environ.pop('HOME', None)\nos.getuid = lambda: 987654321\n"


def test_a_data_folder_in_a_home_that_is_not_there_is_a_line_of_the_report():
    said = script(NOBODY + "from cvae_lib import course\nprint(course.report())", CVAE_DATA="~/digits")
    assert "!!  MNIST" in said and "set CVAE_DATA to a full path" in said


@pytest.mark.parametrize("terminal", ["utf-8", "ascii"])
def test_the_report_needs_no_home_and_no_more_than_ascii(terminal, tmp_path):
    code = NOBODY + "from cvae_lib import course\nprint(course.report())"
    said = script(code, PYTHONIOENCODING=terminal, TMPDIR=str(tmp_path))
    assert said.isascii() and "MNIST" in said and len(said.splitlines()) >= 7
