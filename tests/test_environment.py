"""The surroundings: devices, folders, limits, random streams, and the mode of a model while it is judged."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cvae_lib import environment
from cvae_lib.environment import at_most, data_root, evaluation_mode, named_generator, pick_device, seeded


def test_the_argument_beats_the_variable_beats_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CVAE_DATA", str(tmp_path / "variable"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "variable"
    monkeypatch.delenv("CVAE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert data_root() == tmp_path / "cache" / "cvae_lib"
    assert data_root("~/x") == Path("~/x").expanduser()


@pytest.mark.usefixtures("full_profile")
def test_devices_are_found_or_refused_in_one_sentence():
    environment.settings.device = None
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device().type == pick_device("auto").type == best
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("toaster", "cuda:77"):
        with pytest.raises(ValueError, match="There is no device"):
            pick_device(name)
    environment.settings.device = "meta"  # what the settings name is what "auto" stands for
    assert pick_device().type == "meta" and pick_device("cpu").type == "cpu"


def test_bfloat16_is_not_claimed_where_there_is_none():
    assert not environment.has_native_bf16(torch.device("mps"))
    assert isinstance(environment.has_native_bf16(torch.device("cpu")), bool)


def test_a_limit_is_one_only_where_it_is_given():
    assert [at_most(7, limit) for limit in (None, 3, 9)] == [7, 3, 7]


def test_judging_leaves_every_module_in_the_mode_it_was_in():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    net.train()
    net[1].eval()
    before = [part.training for part in net.modules()]
    with pytest.raises(RuntimeError, match="in the midst"), evaluation_mode(net, "no module"):
        assert not any(part.training for part in net.modules()) and not torch.is_grad_enabled()
        raise RuntimeError("in the midst")
    assert [part.training for part in net.modules()] == before and torch.is_grad_enabled()


def test_judging_is_in_float32_unless_asked_otherwise(as_users_call):
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with evaluation_mode(layer):
            assert layer(x).dtype == torch.float32
        with evaluation_mode(layer, precision="bf16"):
            assert layer(x).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="'auto', 'float32' or 'bf16', not 'half'"), evaluation_mode(precision="half"):
        pass


def test_a_seeded_block_repeats_itself_and_leaves_the_callers_numbers_alone():
    cpu = torch.device("cpu")

    def inside(seed: int, rank: int = 0) -> tuple[list[float], list[float]]:
        with seeded(seed, cpu, rank) as own:
            return torch.rand(3).tolist(), torch.rand(3, generator=own).tolist()

    with torch.random.fork_rng(devices=[]):
        undisturbed = torch.rand(4)
    first, again = inside(5), inside(5)
    assert torch.equal(torch.rand(4), undisturbed)
    assert first == again and first != inside(6)
    assert first[0] != first[1]  # what the model draws does not follow order and pixels
    assert inside(5, rank=1)[0] != first[0] and inside(5, rank=1)[1] == first[1]  # each process has noise of its own


def test_named_streams_depend_on_name_and_seed_alone():
    numbers = [torch.rand(3, generator=named_generator(*which)).tolist() for which in (("a", 1), ("a", 1), ("b", 1))]
    numbers.append(torch.rand(3, generator=named_generator("a", 1 + 2**32)).tolist())
    assert numbers[0] == numbers[1] and numbers[0] not in numbers[2:]
