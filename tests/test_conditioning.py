"""How y enters: every layer against its formula, torch's own modules, and autograd, in float64."""

import math

import pytest
import torch
from torch import nn

from cvae_lib.conditioning import CONDITIONINGS, attention_maps, make_conditioning
from cvae_lib.conditions import Tokens, masked_mean

B, F, C, L = 3, 8, 5, 4
SPACES = {"vector h": (), "image h": (3, 2)}
MASK = torch.tensor([[True, True, True, True], [True, False, True, False], [False, False, False, False]])


def layer_called(name: str, spread: float = 0.7) -> nn.Module:
    """Return a layer in float64, eval, whose every parameter is random: none is where it started."""
    layer = make_conditioning(name, F, C).double().eval()
    for tensor in layer.parameters():
        nn.init.normal_(tensor, std=spread)
    return layer


def features(space: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(B, F, *space, dtype=torch.float64)


def condition_as(form: str) -> torch.Tensor | Tokens:
    if form == "tokens":
        return Tokens(torch.randn(B, L, C, dtype=torch.float64), MASK)
    return torch.randn(B, C, *((3, 2) if form == "image" else ()), dtype=torch.float64)


def forms(space: tuple[int, ...]) -> list[str]:
    return ["vector", "tokens", "image"] if space else ["vector", "tokens"]


CASES = [
    pytest.param(name, space, form, id=f"{name}-{label}-{form}")
    for name in CONDITIONINGS
    for label, space in SPACES.items()
    for form in forms(space)
]


def nothing_like(c: torch.Tensor | Tokens) -> torch.Tensor | Tokens:
    return Tokens(c.values, torch.zeros_like(c.mask)) if isinstance(c, Tokens) else torch.zeros_like(c)


def without_y(name: str, layer: nn.Module, h: torch.Tensor) -> torch.Tensor:
    """Return what a network without y has in the layer's place, in torch's own words."""
    if name == "concatenation":
        return torch.cat([h, torch.zeros(B, C, *h.shape[2:], dtype=h.dtype)], dim=1)
    if name == "batchnorm":
        plain = nn.BatchNorm2d(F).double().train(layer.training)
        plain.load_state_dict(
            {"weight": layer.weight, "bias": layer.bias, **{k: v.clone() for k, v in layer.norm.state_dict().items()}}
        )
        return plain(h.reshape(B, F, -1, 1)).reshape(h.shape)
    return h


# --- what holds for all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("name, space, form", CASES)
def test_changing_c_changes_the_output_and_its_shape_is_announced(name, space, form):
    layer, h, c = layer_called(name), features(space), condition_as(form)
    out = layer(h, c)
    assert out.shape == (B, layer.out_features, *space)
    other = Tokens(c.values + 1, c.mask) if form == "tokens" else c + 1
    moved = (layer(h, other) - out).abs().flatten(1).amax(1)
    told = MASK.any(1) if form == "tokens" else torch.ones(B, dtype=torch.bool)
    assert (moved[told] > 1e-3).all()
    assert (moved[~told] == 0).all()


@pytest.mark.parametrize("name, space, form", CASES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_without_y_a_layer_does_what_a_network_without_y_does(name, space, form, training):
    layer, h = layer_called(name).train(training), features(space)
    expected = without_y(name, layer, h)
    torch.testing.assert_close(layer(h, nothing_like(condition_as(form))), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONDITIONINGS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_stands_under_the_padding_changes_nothing(name, space):
    layer, h, c = layer_called(name), features(space), condition_as("tokens")
    expected = layer(h, c)
    for filling in (0.0, 1e6, math.nan, math.inf):
        assert torch.equal(layer(h, Tokens(c.values.masked_fill(~MASK[..., None], filling), MASK)), expected)
    order = torch.tensor([0, 3, 2, 1])  # swaps the two paddings of the second row
    swapped = c.values.clone()
    swapped[1] = c.values[1, order]
    assert torch.equal(layer(h, Tokens(swapped, MASK)), expected)
    longer = Tokens(torch.cat([c.values, torch.randn(B, 3, C)], 1), torch.cat([MASK, torch.zeros(B, 3) > 0], 1))
    torch.testing.assert_close(layer(h, longer), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_tokens_are_a_set(name):
    layer, h, c = layer_called(name), features((3, 2)), condition_as("tokens")
    order = torch.randperm(L)
    shuffled = Tokens(c.values[:, order], c.mask[:, order])
    torch.testing.assert_close(layer(h, shuffled), layer(h, c), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["concatenation", "addition", "film", "batchnorm"])
def test_all_but_attention_read_the_mean_of_the_tokens(name):
    layer, h, c = layer_called(name), features((3, 2)), condition_as("tokens")
    mean = torch.stack([c.values[0].mean(0), c.values[1, [0, 2]].mean(0), torch.zeros(C)])
    torch.testing.assert_close(masked_mean(c), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(h, c), layer(h, mean), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_an_image_of_one_colour_is_the_vector_of_that_colour(name):
    layer, h, c = layer_called(name), features((3, 2)), condition_as("vector")
    image = c[:, :, None, None].expand(B, C, 3, 2)
    torch.testing.assert_close(layer(h, image), layer(h, c), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["concatenation", "addition", "film", "batchnorm"])
def test_an_image_is_told_pixel_by_pixel(name):
    layer, h, c = layer_called(name), features((3, 2)), condition_as("image")
    out = layer(h, c)
    for i in range(3):
        for j in range(2):
            alone = layer(h[:, :, i, j], c[:, :, i, j])
            torch.testing.assert_close(out[:, :, i, j], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["film", "batchnorm", "attention"])
@pytest.mark.parametrize("form", ["vector", "tokens", "image"])
def test_a_new_layer_is_the_identity_whatever_y_is(name, form):
    layer, h, c = make_conditioning(name, F, C).double(), features((3, 2)), condition_as(form)
    plain = nn.BatchNorm2d(F).double()(h) if name == "batchnorm" else h
    torch.testing.assert_close(layer(h, c), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name, space, form", CASES)
def test_gradients_agree_with_finite_differences(name, space, form):
    layer, c = layer_called(name, spread=0.4), condition_as(form)
    values, mask = c if isinstance(c, Tokens) else (c, None)
    names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())

    def out(h: torch.Tensor, values: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        read = values if mask is None else Tokens(values, mask)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (h, read))

    inputs = [features(space), values, *parameters]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(out, inputs, fast_mode=True)


# --- FiLM and conditional batch norm ------------------------------------------------------------------------


def test_film_is_its_formula():
    layer, h, c = layer_called("film"), features((3, 2)), condition_as("vector")
    gamma, beta = (c @ layer.modulate.weight.T).split(F, dim=1)
    expected = torch.einsum("bf,bfhw->bfhw", 1 + gamma, h) + beta[..., None, None]
    torch.testing.assert_close(layer(h, c), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_conditional_batch_norm_keeps_the_averages_of_torchs_batch_norm(space):
    ours = make_conditioning("batchnorm", F, C).double()
    torchs = (nn.BatchNorm2d if space else nn.BatchNorm1d)(F).double()
    for _ in range(5):
        h = 3 * features(space) + 1
        torch.testing.assert_close(ours(h, condition_as("vector")), torchs(h), rtol=1e-12, atol=1e-12)
    h = features(space)
    torch.testing.assert_close(ours.eval()(h, condition_as("vector")), torchs.eval()(h), rtol=1e-12, atol=1e-12)


def test_conditional_batch_norm_is_its_formula():
    layer, h, c = layer_called("batchnorm").train(), features((3, 2)), condition_as("vector")
    gamma, beta = (c @ layer.modulate.weight.T).split(F, dim=1)
    mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
    normal = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    expected = (layer.weight + gamma)[..., None, None] * normal + (layer.bias + beta)[..., None, None]
    torch.testing.assert_close(layer(h, c), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_gradients_through_the_statistics_of_the_batch_are_right_too(space):
    layer = layer_called("batchnorm", spread=0.4).train()
    inputs = features(space).requires_grad_(), condition_as("vector").requires_grad_()
    assert torch.autograd.gradcheck(layer, inputs)


def test_batch_norm_cannot_train_on_a_single_vector_and_says_so():
    layer = make_conditioning("batchnorm", F, C)
    with pytest.raises(ValueError, match="larger batch"):
        layer(torch.randn(1, F), torch.randn(1, C))
    assert layer.eval()(torch.randn(1, F), torch.randn(1, C)).shape == (1, F)


# --- cross-attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_attention_is_torchs_scaled_dot_product(space):
    layer, h, c = layer_called("attention"), features(space), condition_as("tokens")
    rows = h.flatten(2).mT if space else h[:, None]  # (B, N, F)

    def heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(B, -1, 4, 16).transpose(1, 2)

    found = nn.functional.scaled_dot_product_attention(
        heads(layer.query(rows)), heads(layer.key(c.values)), heads(layer.value(c.values)), MASK[:, None, None]
    )
    expected = rows + layer.output(found.transpose(1, 2).reshape(B, -1, 64))
    told = MASK.any(1)  # torch's answer to padding alone differs between versions
    out = (layer(h, c).flatten(2).mT if space else layer(h, c)[:, None])[told]
    torch.testing.assert_close(out, expected[told], rtol=1e-12, atol=1e-12)


def test_attention_is_its_formula_word_by_word():
    layer, h, c = layer_called("attention"), features((3, 2)), condition_as("tokens")
    out, maps = layer.attend(h, c)
    b, i, j = 1, 2, 0
    query, told = layer.query(h[b, :, i, j]), c.values[b, [0, 2]]
    mixed = []
    for head in range(4):
        part = slice(16 * head, 16 * head + 16)
        scores = [math.exp((query[part] @ layer.key(v)[part]).item() / math.sqrt(16)) for v in told]
        weights = [score / sum(scores) for score in scores]
        assert maps[b, head, i, j, [0, 2]].tolist() == pytest.approx(weights, rel=1e-12)
        mixed.append(sum(w * layer.value(v)[part] for w, v in zip(weights, told, strict=True)))
    torch.testing.assert_close(out[b, :, i, j], h[b, :, i, j] + layer.output(torch.cat(mixed)), rtol=1e-12, atol=1e-12)


def test_one_token_of_attention_is_addition():
    layer, add, h = layer_called("attention"), layer_called("addition"), features((3, 2))
    add.embed.weight.data = layer.output.weight @ layer.value.weight
    c = condition_as("vector")
    torch.testing.assert_close(layer(h, c), add(h, c), rtol=1e-10, atol=1e-10)
    among_padding = Tokens(torch.randn(B, L, C, dtype=torch.float64), torch.tensor([[False, True, False, False]] * B))
    torch.testing.assert_close(layer(h, among_padding), add(h, among_padding.values[:, 1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_where_attention_looks_sums_to_one_over_the_words_and_is_zero_at_padding(space):
    layer, h, c = layer_called("attention"), features(space), condition_as("tokens")
    out, maps = layer.attend(h, c)
    assert maps.shape == (B, 4, *space, L)
    assert torch.equal(out, layer(h, c))
    padding = (~MASK).view(B, 1, *[1] * len(space), L).expand_as(maps)
    assert (maps[padding] == 0).all()
    torch.testing.assert_close(maps[:2].sum(-1), torch.ones(2, 4, *space, dtype=torch.float64))


def test_padding_alone_gives_h_back_and_a_finite_gradient():
    layer, h, c = layer_called("attention"), features((3, 2)).requires_grad_(), condition_as("tokens")
    out = layer(h, c)
    assert torch.equal(out[2], h[2])
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (h, *layer.parameters()))
    torch.testing.assert_close(h.grad[2], torch.ones_like(h.grad[2]))


def test_an_image_of_another_size_is_a_row_of_tokens():
    layer, h, image = layer_called("attention"), features((3, 2)), torch.randn(B, C, 2, 2, dtype=torch.float64)
    tokens = Tokens(torch.stack([image[:, :, i, j] for i in (0, 1) for j in (0, 1)], 1), torch.ones(B, 4) > 0)
    torch.testing.assert_close(layer(h, image), layer(h, tokens), rtol=1e-12, atol=1e-12)


def test_maps_are_found_in_a_network_and_leave_no_hooks():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = layer_called("attention"), layer_called("attention")

        def forward(self, h: torch.Tensor, c: Tokens) -> torch.Tensor:
            return self.two(self.one(h, c), c)

    network, h, c = Twice(), features((3, 2)), condition_as("tokens")
    maps = attention_maps(network, h, c)
    assert list(maps) == ["one", "two"]
    torch.testing.assert_close(maps["two"], network.two.attend(network.one(h, c), c)[1])
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(ValueError, match="no attention"):
        attention_maps(layer_called("film"), h, c)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONDITIONINGS)
@pytest.mark.parametrize(
    "h, c, sentence",
    [
        ((B, F), (B, C + 1), "8 features and a condition of width 5, not 8 and 6"),
        ((B, F - 1), (B, C), "not 7 and 5"),
        ((B, F), (B + 1, C), "4 examples and the features are of 3"),
        ((B, F), None, "NoneType is none"),
    ],
)
def test_what_does_not_fit_a_layer_is_said_in_one_sentence(name, h, c, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        make_conditioning(name, F, C)(torch.randn(h), c and torch.randn(c))


@pytest.mark.parametrize("name", ["concatenation", "addition", "film", "batchnorm"])
@pytest.mark.parametrize("space", [(), (4, 4)])
def test_an_image_must_lie_on_the_features(name, space, as_users_call):
    with pytest.raises(ValueError, match="as large as they are, and flat for an MLP"):
        make_conditioning(name, F, C)(torch.randn(B, F, *space), torch.randn(B, C, 3, 2))


def test_unknown_layers_and_empty_widths_are_named():
    with pytest.raises(ValueError, match=r"'glue'.*film, batchnorm, attention"):
        make_conditioning("glue", 2, 2)
    for name in CONDITIONINGS:
        with pytest.raises(ValueError, match="not 2, 0"):
            make_conditioning(name, 2, 0)
