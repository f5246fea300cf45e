"""What every test starts from: one thread, one seed, the fast profile; and what several files of tests share."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("COURSE_PROFILE", "fast")
os.environ.setdefault("COURSE_CHECK_SEED", "1")  # checks draw their inputs afresh; tests of several draws say which

import pytest
import torch

from cvae_lib import course

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start_for_every_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test the same limits and random numbers, whatever ran before it, and checks that do not raise."""
    monkeypatch.delenv("COURSE_STRICT", raising=False)  # `make test` sets it for the notebooks
    course.enter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def full_profile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the library do all that is asked of it, as it does wherever the course is not imported."""
    monkeypatch.setenv("COURSE_PROFILE", "full")
    course.enter()
    yield
    monkeypatch.undo()
    course.enter()


@pytest.fixture
def fast_profile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the course's limits in force, for a test that asks for them in the midst of others that do without."""
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    course.enter()
    yield
    monkeypatch.undo()
    course.enter()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def course_site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course's website, made once for all workers: the first to ask makes it, and the others wait."""
    import sources
    import website

    if any(not (root / target.name).exists() for target in sources.targets(root)):
        pytest.skip("the notebooks are not built yet")
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # each worker has a folder of its own below it
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "a site").exists():
            website.make(shared / "a site")
    return shared / "a site"


@pytest.fixture
def as_users_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the annotation checks off, so that a wrong argument meets the library's own sentence."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
