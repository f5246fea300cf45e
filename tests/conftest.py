"""What every test starts from: one thread, one seed, the fast profile."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("COURSE_PROFILE", "fast")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seed_for_every_test() -> Iterator[None]:
    """Give each test the same random numbers, whatever ran before it on this worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def as_users_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the annotation checks off, so that a wrong argument meets the library's own sentence."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
