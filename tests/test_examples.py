"""The examples: each runs as it stands, in a process of its own, on tiny sizes."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from cvae_lib import load_checkpoint

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
MINE = {"cvae_lib", "torch", "torchvision", "statsmodels"}


def run(folder: Path, name: str, *arguments: object, processes: int = 0) -> str:
    """Run an example in a folder, in several processes if asked, and return what it printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    command = [sys.executable, *launcher, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_short_and_needs_the_library_alone(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    nodes = list(ast.walk(ast.parse(text)))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in found if name.startswith("cvae_lib.course") or "._" in name]
    assert {name.split(".")[0] for name in found} <= MINE | set(sys.stdlib_module_names)


def test_every_example_is_run_here():
    names = ["own_images.py", "own_networks.py", "sentences.py", "streaming.py", "table.py"]
    assert [path.name for path in FILES] == names


def test_images_of_ones_own(tmp_path: Path):
    for kind, colour in (("blue", 2), ("red", 0)):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for number in range(10):
            picture = 0.2 * torch.rand(3, 24, 20)
            picture[colour] += 0.7
            save_image(picture, tmp_path / "pictures" / kind / f"{number}.png")
    said = run(tmp_path, "own_images.py", "pictures", "--side", 16, "--epochs", 2, "--workers", 0)
    assert "A row each for blue, red is in drawn.png." in said
    # Two rows of eight, with two pixels around each picture.
    assert Image.open(tmp_path / "drawn.png").size == (8 * 18 + 2, 2 * 18 + 2)
    model, history = load_checkpoint(tmp_path / "model")
    assert model.draw([0, 1]).shape == (2, 3, 16, 16)
    assert len(history) == 2


def test_a_table():
    said = run(EXAMPLES.parent, "table.py", 1, 400)
    assert re.search(r"log p\(x\|y\) of rows held out, nats: -\d+\.\d+ ± \d", said)
    counts = [int(n) for n in re.findall(r"health is .*: (\d+) rows of data, and as many drawn", said)]
    assert len(counts) == 2 and sum(counts) == 400
    columns = ["visits", "coinsurance", "individual", "incentive", "limit", "limitation", "diseases"]
    assert re.findall(r"^(\w+) +data   \S", said, re.MULTILINE) == 2 * columns
    assert len(re.findall(r"^ +drawn  \S", said, re.MULTILINE)) == 14


@pytest.mark.parametrize("processes", [0, 2])
def test_a_stream(tmp_path: Path, processes: int):
    said = run(tmp_path, "streaming.py", "--steps", 4, "--shards", 4, "--workers", 1, processes=processes)
    nats = [float(value) for value in re.findall(r"nats: (-\d+\.\d+) ±", said)]
    assert len(nats) == max(1, processes) and len(set(nats)) == 1  # every process ends with the same model
    assert -600 < nats[0] < -100


@pytest.mark.parametrize("processes", [0, 2])
def test_networks_of_ones_own(tmp_path: Path, processes: int):
    said = run(tmp_path, "own_networks.py", 2, 150, processes=processes)
    assert len(re.findall(r"drew pictures of shape \(8, 3, 48, 48\); log p\(x\|y\) is -?\d+\.\d+ ± ", said)) == 1
    assert (tmp_path / "own_networks" / "checkpoint.json").exists()


def test_sentences_are_of_the_kind_that_was_asked_for():
    said = run(EXAMPLES.parent, "sentences.py", 300, 1000)
    assert re.search(r"nats a sentence: -\d+\.\d+ ± \d", said)
    lines = dict(re.findall(r"^(\w+ at 0\.5): (.*)$", said, re.MULTILINE))
    assert set(lines) == {"animal at 0.5", "thing at 0.5"}
    own, other = {"bird", "fish"}, {"boat", "car"}
    for line in lines.values():
        words = line.replace(";", "").split()
        assert len(set(words) & own) >= 1 and sum(word in other for word in words) <= 1
        own, other = other, own
