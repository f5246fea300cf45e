"""The course's surroundings: profile, device, data folder, report."""

import os
import sys
from pathlib import Path

import pytest
import torch

from cvae_lib import course


def test_the_profile_is_full_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE")
    assert course.profile() == "full" and course.capped(1000, 3) == 1000
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert course.profile() == "fast" and course.capped(1000, 3) == 3 and course.capped(2, 3) == 2
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    with pytest.raises(ValueError, match="'full' or 'fast', not 'quick'"):
        course.profile()


def test_the_argument_beats_the_variable_beats_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CVAE_DATA", str(tmp_path / "variable"))
    assert course.data_root(tmp_path / "argument") == tmp_path / "argument"
    assert course.data_root() == tmp_path / "variable"
    monkeypatch.delenv("CVAE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert course.data_root() == tmp_path / "cache" / "cvae_lib"
    assert course.data_root("~/x") == Path(os.path.expanduser("~/x"))


def test_devices_are_found_or_refused_in_one_sentence(monkeypatch):
    assert course.pick_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert course.pick_device("auto").type == best
    for name in ("toaster", "cuda:77"):
        with pytest.raises(ValueError, match="There is no device"):
            course.pick_device(name)
    monkeypatch.setenv("COURSE_DEVICE", "meta")
    assert course.pick_device().type == "meta" and course.pick_device("cpu").type == "cpu"
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    with pytest.raises(ValueError, match="There is no device 'toaster'"):
        course.pick_device()


def test_bfloat16_is_not_claimed_where_there_is_none():
    assert not course.has_native_bf16(torch.device("mps"))
    assert isinstance(course.has_native_bf16(torch.device("cpu")), bool)


def test_someone_watches_only_where_output_is_seen(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.delenv("COURSE_UNATTENDED", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert course.someone_watches()
    monkeypatch.setenv("COURSE_UNATTENDED", "1")
    assert not course.someone_watches()


def test_the_report_says_what_to_do_where_something_is_missing(monkeypatch, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert "built-in strokes" in str(course.report(tmp_path))
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").touch()
    assert "found on disk" in str(course.report(tmp_path))
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None)
    lines = str(course.report(tmp_path)).splitlines()
    missing = next(i for i, line in enumerate(lines) if "ipywidgets is missing" in line)
    assert lines[missing].startswith("!!") and "pip install ipywidgets" in lines[missing + 1]


def test_too_little_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5 * 2**20})())
    finding = next(f for f in course.report(tmp_path).findings if f.what == "MNIST")
    assert not finding.fine and "5 MB are left" in finding.advice
