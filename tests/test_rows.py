"""Linear layers cut by rows, a block for each core: torch's linear layer, in other products."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training._rows import LEAST, ByRows, LinearByRows, blocks_for, by_rows

SIZES = [(1, 1, 2, 2), (5, 7, 6, 2), (5, 7, 6, 3), (16, 3, 12, 4), (2, 30, 8, 8)]


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


class Products(TorchDispatchMode):
    """Writes down which products are computed, and the addresses that batched ones read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            self.names.append(name)
            self.seen |= {part.data_ptr() for part in (*args, found) if isinstance(part, torch.Tensor)}
        return found


@pytest.mark.parametrize(("rows", "inputs", "outputs", "blocks"), SIZES)
def test_values_and_gradients_are_torchs(rows, inputs, outputs, blocks):
    x, weight, bias = drawn(rows, inputs), drawn(outputs, inputs), drawn(outputs)
    upstream = torch.randn(rows, outputs, dtype=torch.float64)
    theirs = F.linear(x, weight, bias)
    with ByRows(blocks):
        ours = F.linear(x, weight, bias)
        without = F.linear(x, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(without, theirs - bias, rtol=1e-13, atol=1e-13)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, weight, bias), upstream),
        torch.autograd.grad(theirs, (x, weight, bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-13)


def test_gradients_by_finite_differences():
    x, weight = drawn(3, 5), drawn(8, 5)
    assert torch.autograd.gradcheck(lambda x, w: LinearByRows.apply(x, w, 2), (x, weight))
    assert torch.autograd.gradcheck(lambda w: LinearByRows.apply(x.detach(), w, 4), (weight,))
    assert torch.autograd.gradcheck(lambda x: LinearByRows.apply(x, weight.detach(), 4), (x,))
    assert torch.autograd.gradgradcheck(lambda x, w: LinearByRows.apply(x, w, 2), (x, weight))


def test_an_objective_may_map_over_draws():
    x, weight, bias = drawn(5, 3, 6), drawn(8, 6), drawn(8)
    with ByRows(2):
        ours = torch.vmap(lambda x: F.linear(x, weight, bias))(x)
        through = torch.func.grad(lambda w: torch.vmap(lambda x: F.linear(x, w))(x).square().sum())(weight)
    torch.testing.assert_close(ours, F.linear(x, weight, bias), rtol=1e-13, atol=1e-13)
    theirs = torch.autograd.grad(F.linear(x, weight).square().sum(), weight)[0]
    torch.testing.assert_close(through, theirs, rtol=1e-12, atol=1e-12)


def test_no_weight_and_no_gradient_of_one_is_copied():
    # A copy would be written by any core: the products must read the very weights, and write the very gradients.
    layer, x = nn.Linear(6, 8, bias=False), torch.randn(4, 6)
    with ByRows(2), Products() as products:
        layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.is_contiguous()
    assert {layer.weight.data_ptr(), layer.weight.grad.data_ptr()} <= products.seen
    assert products.names == ["bmm", "bmm"]  # and none for x, of which nobody asks the gradient


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (torch.randn(4, 6), 7),  # rows that cannot be shared out
        (torch.randn(2, 4, 6), 8),  # more than one batch dimension
        (torch.randn(6), 8),
        (torch.randn(4, 6).bfloat16(), 8),
    ],
)
def test_what_does_not_fit_is_left_to_torch(x, rows):
    weight, bias = torch.randn(rows, 6).to(x.dtype), torch.randn(rows).to(x.dtype)
    with ByRows(2), Products() as products:
        ours = F.linear(x, weight, bias)
    assert "bmm" not in products.names
    assert torch.equal(ours, F.linear(x, weight, bias))


def test_in_bf16_the_products_stay_torchs():
    layer, x = nn.Linear(6, 8), torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = layer(x)
        with ByRows(2), Products() as products:
            ours = layer(x)
    assert "bmm" not in products.names and ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_a_step_of_a_model_is_the_same(network):
    hidden = (32, 16) if network == "mlp" else (4, 8)
    torch.manual_seed(0)
    model = CVAE(CVAEConfig(network=network, hidden=hidden, how="film", where="every", latent_dim=4)).double()
    x, y = torch.rand(6, 1, 28, 28, dtype=torch.float64), torch.arange(6)
    found = []
    for blocks in (1, 2):
        torch.manual_seed(1)
        with Products() as products:
            loss = by_rows(lambda model, x, y: elbo_terms(model, x, y).loss(), blocks)(model, x, y)
            found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
        assert ("bmm" in products.names) == (blocks == 2)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_one_block_is_the_function_itself():
    assert by_rows(elbo_terms, 1) is elbo_terms


@pytest.mark.parametrize(("threads", "blocks"), [(1, 1), (2, 2), (3, 3), (4, 1), (64, 1)])
def test_only_few_cores_get_rows_of_their_own(monkeypatch, threads, blocks):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert 3 * LEAST <= 784 < 4 * LEAST  # the widest layer below
    assert blocks_for(CVAE(CVAEConfig(hidden=(512, 512)))) == blocks
    assert blocks_for(nn.Conv2d(1, 4, 3)) == 1
