"""Encoders and decoders of both kinds, and the CVAE around them, under every condition and every conditioning."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from cvae_lib.conditioning import CONDITIONINGS, attention_maps
from cvae_lib.conditions import MISSING, Condition, EmbeddingCondition, Observed, Tokens
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.networks import (
    MLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    MLPDecoder,
    MLPEncoder,
)

NETWORKS = ("mlp", "convolutional")
B, D = 3, 2
SIDE = 28
WORDS = ("a", "seven", "thick", "thin")
KINDS = {
    "label": {"num_classes": 3},
    "embedding": {"num_classes": 3, "condition_width": 5},
    "attributes": {"attributes": ("thickness", "slant")},
    "caption": {"words": WORDS, "caption_length": 4, "condition_width": 5},
    "observed": {},
    "label+attributes": {"num_classes": 3, "attributes": ("thickness", "slant")},
}
SMALL = {"mlp": {"hidden": (7, 6)}, "convolutional": {"hidden": (8, 12)}}
EVERYTHING = [(network, how, kind) for network in NETWORKS for how in CONDITIONINGS for kind in KINDS]


def config(network: str, how: str = "concatenation", kind: str = "label", **changes: object) -> CVAEConfig:
    settings = {"latent_dim": D, "network": network, "conditioning": how, "condition_at": "every", "condition": kind}
    return CVAEConfig(**{**settings, **SMALL[network], **KINDS[kind], **changes})


def disturbed(model: nn.Module) -> nn.Module:
    """Give every parameter and average a random value: nothing is where it started. In float64, for exact equality."""
    model.double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif tensor.is_floating_point() and not name.startswith(("condition.mean", "condition.std")):
                tensor.copy_(torch.randn_like(tensor) / max(1, tensor[0].numel()) ** 0.5)
    return model


def images(side: int = SIDE, channels: int = 1) -> torch.Tensor:
    return torch.rand(B, channels, side, side, dtype=torch.float64)


def y_of(kind: str, channels: int = 1) -> object:
    """Return a y for three examples, each of them different."""
    labels = torch.tensor([0, 2, 1])
    attributes = torch.tensor([[1.0, -0.5], [0.3, 2.0], [math.nan, 1.0]])
    return {
        "label": labels,
        "embedding": labels,
        "attributes": attributes,
        "caption": torch.tensor([[1, 3, 2, 0], [2, 0, 0, 0], [4, 2, 0, 0]]),
        "observed": Observed(images(channels=channels), torch.rand(B, 1, SIDE, SIDE) < 0.5),
        "label+attributes": (labels, attributes),
    }[kind]


def turned(y: object) -> object:
    """Return y with its examples moved on by one: everyone gets another's."""
    if isinstance(y, torch.Tensor):
        return y.roll(1, 0)
    parts = [turned(part) for part in y]
    return Observed(*parts) if isinstance(y, Observed) else tuple(parts)


def picked(y: object, index: slice) -> object:
    if isinstance(y, torch.Tensor):
        return y[index]
    parts = [picked(part, index) for part in y]
    return Observed(*parts) if isinstance(y, Observed) else tuple(parts)


def outputs(model: CVAE, x: torch.Tensor, z: torch.Tensor, y: object) -> list[torch.Tensor]:
    """Return what both networks say."""
    q = model.posterior(x, y).base_dist
    return [q.loc, q.scale, model.likelihood(z, y).base_dist.logits]


class Plain(nn.Module):
    """Torch's own batch norm in the place of a slot."""

    def __init__(self, layer: nn.Module, flat: bool) -> None:
        super().__init__()
        self.norm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(layer.features).double().eval()
        self.norm.load_state_dict({"weight": layer.weight, "bias": layer.bias, **layer.norm.state_dict()})

    def forward(self, h: torch.Tensor, c: object) -> torch.Tensor:
        return self.norm(h)


def unconditional(model: CVAE) -> CVAE:
    """Return the VAE with the same weights, made without any condition.

    Where y was appended, the weights that read it are left out; where batch norm was conditional, it is torch's own.
    """
    vae = CVAE(dataclasses.replace(model.config, condition="none")).double().eval()
    assert not vae.is_conditional
    weights = model.state_dict()
    shared = {
        name: weights[name][:, : old.shape[1]] if old.ndim > 1 else weights[name]
        for name, old in vae.state_dict().items()
        if name in weights
    }
    left = vae.load_state_dict(shared, strict=False).missing_keys
    if model.config.conditioning == "batchnorm":
        for side in ("encoder", "decoder"):
            ours, theirs = getattr(model, side), getattr(vae, side)
            if model.config.network == "mlp":
                for block, slot in ours.net.slots.items():
                    theirs.net.slots[block] = Plain(slot, flat=True)
            else:
                for block, other in zip(ours.blocks.blocks, theirs.blocks.blocks, strict=True):
                    other.slot, other.norm = Plain(block.slot, flat=False), nn.Identity()
                    left = [name for name in left if ".blocks." not in name]
    assert left == []
    return vae


# --- what must hold for every condition, conditioning and network -------------------------------------------


@pytest.mark.parametrize("network, how, kind", EVERYTHING)
def test_changing_y_changes_what_both_networks_say(network, how, kind):
    model, x, z, y = disturbed(CVAE(config(network, how, kind))), images(), torch.randn(B, D).double(), y_of(kind)
    for one, other in zip(outputs(model, x, z, y), outputs(model, x, z, turned(y)), strict=True):
        assert ((one - other).abs().flatten(1).amax(1) > 1e-4).all()


@pytest.mark.parametrize("network, how, kind", EVERYTHING)
def test_dropping_y_gives_the_unconditional_network(network, how, kind):
    model, x, z, y = disturbed(CVAE(config(network, how, kind))), images(), torch.randn(B, D).double(), y_of(kind)
    gone = model.condition.drop(y, 1.0)
    expected = outputs(unconditional(model), x, z, None)
    for one, other in zip(outputs(model, x, z, gone), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    # Dropped for one example only, the others keep theirs.
    some = model.condition.mask_out(y, torch.tensor([False, True, False]))
    told = outputs(model, x, z, y)
    for one, other, full in zip(outputs(model, x, z, some), expected, told, strict=True):
        torch.testing.assert_close(one[1], other[1], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(one[[0, 2]], full[[0, 2]], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("how", ["film", "batchnorm", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_does_not_hear_y_yet(network, how, kind):
    model = CVAE(config(network, how, kind)).double().eval()
    x, z = images(), torch.randn(B, D).double()
    expected = outputs(unconditional(model), x, z, None)
    for one, other in zip(outputs(model, x, z, y_of(kind)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("how", CONDITIONINGS)
def test_padding_changes_nothing(network, how):
    model, x = disturbed(CVAE(config(network, how, "caption"))), images()
    z, y = torch.randn(B, D).double(), y_of("caption")
    told = outputs(model, x, z, y)
    for one, other in zip(outputs(model, x, z, y[:, :3]), told, strict=True):  # one column of padding less
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    c = model.condition(y)
    spoilt = Tokens(c.values.masked_fill(~c.mask[..., None], math.nan), c.mask)
    order = torch.tensor([0, 3, 2, 1])  # of the second caption all but the first are padding
    moved = c.values.masked_fill(~c.mask[..., None], 5.0)
    moved[1] = moved[1, order]
    for other in (spoilt, Tokens(moved, c.mask)):
        assert torch.equal(model.decoder(z, other), model.decoder(z, c))
        assert torch.equal(model.encoder(x, other)[0], model.encoder(x, c)[0])


@pytest.mark.parametrize("network, how, kind", EVERYTHING)
def test_every_parameter_is_trained(network, how, kind):
    model, y = disturbed(CVAE(config(network, how, kind))), y_of(kind)
    q = model.posterior(images(), y)
    (model.likelihood(q.mean + q.stddev, y).base_dist.logits.square().sum()).backward()
    idle = {name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()}
    # A single token gets all the attention whatever the question, so there nobody learns to ask.
    alone = how == "attention" and model.condition.kind == "vector"
    assert idle == {name for name, _ in model.named_parameters() if alone and (".query." in name or ".key." in name)}


@pytest.mark.parametrize("network, how, kind", EVERYTHING)
def test_several_latents_per_image_meet_the_right_y(network, how, kind):
    model, y = disturbed(CVAE(config(network, how, kind))), y_of(kind)
    z = torch.randn(2, 2, B, D).double()
    together = model.likelihood(z, y).base_dist.logits
    assert together.shape == (2, 2, B, 1, SIDE, SIDE)
    for b in range(B):
        alone = model.likelihood(z[1, 0, b : b + 1], picked(y, slice(b, b + 1))).base_dist.logits
        torch.testing.assert_close(together[1, 0, b], alone[0], rtol=1e-11, atol=1e-11)
    shared = model.likelihood(z, picked(y, slice(0, 1))).base_dist.logits  # one y for all
    torch.testing.assert_close(shared[:, :, 0], together[:, :, 0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("how", CONDITIONINGS)
def test_half_precision_products_work_and_stay_near(network, how):
    model, y = disturbed(CVAE(config(network, how, "caption"))).float(), y_of("caption")
    x, z = images().float(), torch.randn(B, D)
    exact = outputs(model, x, z, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = outputs(model, x, z, y)
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.1 * other.abs().max()  # bfloat16 has three digits, a dozen layers take one


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_can_be_laid_out_without_memory(network, kind):
    with torch.device("meta"):
        model, x, y = CVAE(config(network, "attention", kind)), torch.rand(B, 1, SIDE, SIDE), y_of(kind)
        if isinstance(y, Observed):
            y = Observed(y.image.float(), y.mask)
        q = model.posterior(x, y)
        assert q.mean.device.type == "meta" and model.likelihood(q.mean, y).mean.shape == x.shape


# --- convolutional networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (48, 48), (20, 28), (4, 4)], ids=str)
@pytest.mark.parametrize("norm", ["group", "none"])
def test_images_of_every_size_go_in_and_come_out(network, channels, size, norm):
    for kind in ("label", "observed"):
        model = CVAE(config(network, "film", kind, event_shape=(channels, *size), norm=norm))
        x = torch.rand(B, channels, *size)
        y = Observed(x, torch.rand(B, 1, *size) < 0.5) if kind == "observed" else y_of(kind)
        q = model.posterior(x, y)
        assert q.event_shape == (D,) and q.batch_shape == (B,)
        p = model.likelihood(q.rsample((4,)), y)
        assert p.batch_shape == (4, B) and p.event_shape == x.shape[1:]
        assert p.log_prob(x).isfinite().all()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("how", CONDITIONINGS)
@pytest.mark.parametrize("kind", ["label", "caption", "observed"])
def test_colour_images_of_the_other_size_hear_y_and_forget_it_alike(network, how, kind, monkeypatch):
    monkeypatch.setitem(globals(), "SIDE", 32)
    model, x = disturbed(CVAE(config(network, how, kind, event_shape=(3, 32, 32)))), images(32, 3)
    z = torch.randn(B, D).double()
    y = Observed(x, torch.rand(B, 1, 32, 32) < 0.5) if kind == "observed" else y_of(kind)
    for one, other in zip(outputs(model, x, z, y), outputs(model, x, z, turned(y)), strict=True):
        assert ((one - other).abs().flatten(1).amax(1) > 1e-6).all()
    without = outputs(unconditional(model), x, z, None)
    for one, other in zip(outputs(model, x, z, model.condition.drop(y, 1.0)), without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_vamp_prior_is_the_average_posterior_under_every_condition(network, kind):
    model, y = disturbed(CVAE(config(network, "attention", kind, prior="vamp", components=4))), y_of(kind)
    y = picked(y, torch.tensor([0, 1, 0]))  # two of them alike
    if kind == "caption":
        y = torch.tensor([[1, 3, 0], [1, 4, 0], [1, 3, 0]])  # as long as each other
    rows = []
    watch = model.encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    p, z = model.prior(y), torch.randn(7, B, D).double()
    watch.remove()
    assert rows == [8]  # four pseudo-images under each distinct y
    for b in range(B):
        q = model.posterior(model.prior_module.pseudo_images, picked(y, slice(b, b + 1)))  # one y for all four
        expected = q.log_prob(z[:, b, None]).logsumexp(1) - math.log(4)
        torch.testing.assert_close(p.log_prob(z)[:, b], expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(model.prior(picked(y, slice(0, 1)), batch=B).mean[1], p.mean[0])
    assert not torch.allclose(p.mean[0], p.mean[1])


def test_a_block_is_its_formula():
    told = {"condition_dim": 4, "conditioning": "addition", "condition_at": "every"}
    encoder = disturbed(ConvolutionalEncoder((1, 28, 28), (8, 12), D, **told))
    first, second = encoder.blocks.blocks
    f = nn.functional
    for block, h, pool in (
        (first, torch.randn(B, 8, 14, 14).double(), 2),
        (second, torch.randn(B, 8, 7, 7).double(), 1),
    ):
        c = torch.randn(B, 4).double()
        inner = block.norm(h) + (c @ block.slot.embed.weight.T)[..., None, None]
        inner = f.conv2d(f.avg_pool2d(f.silu(inner), pool), block.enter.weight, block.enter.bias, padding=1)
        inner = f.conv2d(f.silu(block.inner_norm(inner)), block.leave.weight, block.leave.bias, padding=1)
        skip = h if block is first else f.conv2d(h, block.skip.weight, block.skip.bias)
        torch.testing.assert_close(block(h, c), f.avg_pool2d(skip, pool) + inner, rtol=1e-11, atol=1e-11)
    decoder = disturbed(ConvolutionalDecoder(D, (12, 8), (1, 28, 28), **told))
    last, h, c = decoder.blocks.blocks[1], torch.randn(B, 12, 7, 7).double(), torch.randn(B, 4).double()
    twice = torch.arange(14) // 2  # each pixel becomes a square of four
    inner = last.norm(h) + (c @ last.slot.embed.weight.T)[..., None, None]
    inner = f.conv2d(f.silu(inner), last.enter.weight, last.enter.bias, padding=1)[..., twice, :][..., twice]
    inner = f.conv2d(f.silu(last.inner_norm(inner)), last.leave.weight, last.leave.bias, padding=1)
    skip = f.conv2d(h, last.skip.weight, last.skip.bias)[..., twice, :][..., twice]
    torch.testing.assert_close(last(h, c), skip + inner, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", [ConvolutionalEncoder, ConvolutionalDecoder])
def test_an_observed_pixel_is_heard_at_its_own_place_though_the_map_is_small(network):
    told = {"condition_dim": 2, "condition_is_image": True, "condition_at": "every"}
    if network is ConvolutionalEncoder:
        net, h = disturbed(network((1, 28, 28), (8, 8), 16, **told)), torch.rand(1, 1, 28, 28).double()
    else:
        net, h = disturbed(network(D, (8, 8), (1, 28, 28), **told)), torch.randn(1, D).double()
    c = torch.zeros(16, 2, 28, 28, dtype=torch.float64)
    for place in range(16):  # one bright pixel, walking through one square of the smallest map
        c[place, 0, 12 + place // 4, 8 + place % 4] = 1
    out = net(h.expand(16, *h.shape[1:]), c)
    out = (out[0] if isinstance(out, tuple) else out).flatten(1)
    apart = torch.cdist(out, out) + torch.eye(16)
    assert apart.min() > 1e-3


def test_normalisation_does_not_wash_out_what_is_the_same_at_every_pixel():
    """With fewer than four features to a group, a shift of each whole feature would vanish or nearly so."""
    for features in (3, 4, 12, 24, 48, 64):
        encoder = ConvolutionalEncoder((1, 28, 28), (features,), D)
        norm = encoder.norm
        assert features % norm.num_groups == 0 and (features // norm.num_groups >= 4 or norm.num_groups == 1)


@pytest.mark.parametrize("network", [ConvolutionalEncoder, ConvolutionalDecoder])
@pytest.mark.parametrize("shape", [(1, 27, 27), (3, 30, 30), (1, 28, 30), (28, 28)])
def test_other_sizes_are_refused(network, shape):
    arguments = (shape, (8,), D) if network is ConvolutionalEncoder else (D, (8,), shape)
    with pytest.raises(ValueError, match="divisible by 4, and .* is no such .* take an MLP") as caught:
        network(*arguments)
    assert str(shape) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_settings_of_a_convolutional_network_are_named():
    with pytest.raises(ValueError, match="at least one width"):
        ConvolutionalEncoder((1, 28, 28), (), D)
    with pytest.raises(ValueError, match="'group' or 'none', not 'layer'"):
        ConvolutionalEncoder((1, 28, 28), (8,), D, norm="layer")
    with pytest.raises(ValueError, match="choose from mlp, convolutional"):
        CVAE(CVAEConfig(network="transformer"))


# --- where the condition enters -----------------------------------------------------------------------------


def slots(network: nn.Module) -> list[int]:
    """Return the blocks that have one."""
    if hasattr(network, "net"):
        return [int(block) for block in network.net.slots]
    return [number for number, block in enumerate(network.blocks.blocks) if block.slot is not None]


@pytest.mark.parametrize("network, blocks", [("mlp", 3), ("convolutional", 2)])
def test_the_condition_enters_where_it_is_placed(network, blocks):
    for where, expected in (("first", [0]), ("every", list(range(blocks))), ((1,), [1]), ((0, blocks - 1), None)):
        model = CVAE(config(network, condition_at=where))
        assert slots(model.encoder) == slots(model.decoder) == (expected or [0, blocks - 1])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side, deaf", [("encoder", "decoder"), ("decoder", "encoder")])
def test_one_network_can_be_told_and_the_other_not(network, side, deaf):
    model, x, z = disturbed(CVAE(config(network, condition_to=side))), images(), torch.randn(B, D).double()
    y = y_of("label")
    assert slots(getattr(model, deaf)) == []
    moved = [
        not torch.equal(one, other)
        for one, other in zip(outputs(model, x, z, y), outputs(model, x, z, turned(y)), strict=True)
    ]
    assert moved == ([True, True, False] if side == "encoder" else [False, False, True])
    # The network that does not hear y does not ask for it, the other one does.
    ask = {"encoder": lambda: model.posterior(x), "decoder": lambda: model.likelihood(z)}
    ask[deaf]()
    with pytest.raises(ValueError, match="pass y"):
        ask[side]()


@pytest.mark.parametrize(
    "where, sentence",
    [
        ("nowhere", "not 'nowhere'"),
        ((), r"not \(\)"),
        ((0, 3), r"blocks 0 to 2, so the condition cannot enter at \(0, 3\)"),
        ((-1,), "blocks 0 to 2"),
        ((True,), "by number"),
    ],
)
def test_places_that_are_none_are_named(where, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        MLP(3, (4, 4), 2, condition_dim=2, condition_at=where)


def test_the_mlp_keeps_the_names_and_the_order_of_its_parameters():
    model = CVAE(CVAEConfig(num_classes=10, hidden=(512, 512)))
    names = [
        f"{side}.net.layers.{n}.{what}"
        for side in ("encoder", "decoder")
        for n in range(3)
        for what in ("weight", "bias")
    ]
    assert list(model.state_dict()) == names
    assert [tuple(tensor.shape) for tensor in model.encoder.parameters()][::2] == [(512, 794), (512, 512), (64, 512)]


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_and_weights_make_the_same_model_again(network, kind):
    model, y = disturbed(CVAE(config(network, "film", kind, condition_at=(0, 1)))), y_of(kind)
    carried = CVAEConfig.from_dict(json.loads(json.dumps(model.config.as_dict())))
    assert carried == model.config
    again = CVAE(carried).double().eval()
    again.load_state_dict(model.state_dict())
    x, z = images(), torch.randn(B, D).double()
    for one, other in zip(outputs(model, x, z, y), outputs(again, x, z, y), strict=True):
        assert torch.equal(one, other)


def test_what_settings_leave_out_is_derived_where_the_model_is_built():
    few = {"num_classes": 10, "latent_dim": 32, "event_shape": [1, 28, 28], "hidden": [512, 512]}
    assert CVAEConfig.from_dict(few) == CVAEConfig(hidden=(512, 512))
    assert CVAEConfig().widths == (376,) * 4 and CVAEConfig(network="convolutional").widths == (24, 48)
    assert not CVAE(CVAEConfig(num_classes=0, hidden=(4,))).is_conditional
    assert CVAE(dataclasses.replace(CVAEConfig(num_classes=0, hidden=(4,)), num_classes=3)).condition.dim == 3
    assert CVAE(CVAEConfig(hidden=(4,), condition="attributes", attributes=("slant",))).num_classes == 0
    assert CVAE(CVAEConfig(hidden=(4,), condition="embedding", num_classes=7)).num_classes == 7


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"condition": "colour"}, "no condition 'colour'"),
        ({"condition": "attributes"}, "at least one name"),
        ({"condition": "caption"}, "at least one word"),
        ({"condition": "embedding", "num_classes": 0}, "at least 1 class"),
        ({"condition": "label+caption", "words": WORDS}, "give vectors"),
        ({"condition": "own"}, "pass it again"),
        ({"condition_to": "prior"}, "not 'prior'"),
        ({"network": "transformer"}, "no network 'transformer'"),
        ({"conditioning": "glue"}, "no conditioning 'glue'"),
        ({"network": "convolutional", "event_shape": (1, 6, 5)}, "divisible by 4"),
    ],
)
def test_settings_that_make_no_model_are_named(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        CVAE(CVAEConfig(**{"hidden": (8,), **settings}))


class Angle(Condition):
    """A condition somebody brought: an angle as a point on the circle, NaN where not known."""

    dim = 3

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        known = ~y.isnan()
        return torch.stack([y.sin(), y.cos(), torch.ones_like(y)], dim=1).masked_fill(~known[:, None], 0)

    def mask_out(self, y: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return y.masked_fill(where, math.nan)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("how", CONDITIONINGS)
def test_a_condition_of_your_own_is_obeyed_and_dropped_like_any_other(network, how):
    model = disturbed(CVAE(config(network, how), condition=Angle()))
    x, z, y = images(), torch.randn(B, D).double(), torch.tensor([0.1, 1.0, 3.0]).double()
    for one, other in zip(outputs(model, x, z, y), outputs(model, x, z, y + math.tau), strict=True):
        torch.testing.assert_close(one, other)
    told = outputs(model, x, z, y)
    for one, other in zip(told, outputs(model, x, z, y + 1), strict=True):
        assert not torch.allclose(one, other)
    without = outputs(unconditional(model), x, z, None)
    for one, other in zip(outputs(model, x, z, model.condition.drop(y, 1.0)), without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_condition_of_your_own_has_to_be_one_and_be_brought_again():
    model = CVAE(CVAEConfig(hidden=(4,)), condition=Angle())
    with pytest.raises(ValueError, match="pass it again: condition=..."):
        CVAE(CVAEConfig.from_dict(model.config.as_dict()))
    again = CVAE.from_config(model.config, condition=Angle())
    again.load_state_dict(model.state_dict())
    z, y = torch.randn(B, model.config.latent_dim), torch.tensor([0.1, 1.0, 3.0])
    assert torch.equal(again.likelihood(z, y).mean, model.likelihood(z, y).mean)


def test_what_is_no_condition_is_refused(as_users_call):
    with pytest.raises(ValueError, match="Linear is not"):
        CVAE(CVAEConfig(hidden=(4,)), condition=nn.Linear(2, 2))


# --- what is refused when it is used ------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_wrong_input_is_named_in_one_sentence(network, as_users_call):
    model, x, z, y = CVAE(config(network)), images().float(), torch.randn(B, D), y_of("label")
    for call, sentence in (
        (lambda: model.posterior(x), "conditional: pass y"),
        (lambda: model.likelihood(z), "conditional: pass y"),
        (lambda: model.prior(batch=3), "conditional: pass y"),
        (lambda: model.posterior(x, y[:2]), "y is for 2 examples, but x or z has 3"),
        (lambda: model.likelihood(z, y[:2]), "y is for 2 examples"),
        (lambda: model.prior(y, batch=4), "y is for 3 examples, but x or z has 4"),
        (lambda: model.posterior(x, y + 2), r"0\.\.2 \(or -1"),
        (lambda: model.posterior(x, y.float()), "int64"),
        (lambda: model.posterior(x[:, :, 1:], y), r"\(B, 1, 28, 28\), not \(3, 1, 27, 28\)"),
        (lambda: model.posterior((255 * x).byte(), y), "not torch.uint8; model.prepare"),
        (lambda: model.likelihood(z[:, :1], y), r"latents of 2 entries, not of shape \(3, 1\)"),
        (lambda: model.likelihood(z[0], y), r"\(K, B, D\) for K samples each, not .* of \(2,\)"),
        (lambda: model.likelihood(z.long(), y), "z has shape .* not torch.int64"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_an_image_shaped_condition_is_flat_for_an_mlp(as_users_call):
    net = MLP(5, (4,), 2, condition_dim=2, conditioning="film")
    with pytest.raises(ValueError, match="flat for an MLP"):
        net(torch.randn(3, 5), torch.randn(3, 2, 28, 28))


# --- drawing, reconstructing, looking -----------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_draws_and_reconstructs_under_every_condition(network, kind):
    model, y = CVAE(config(network, kind=kind)).eval(), y_of(kind)
    assert model.prior(y).batch_shape == (B,)
    drawn = model.draw(y, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (B, 1, SIDE, SIDE) and ((drawn > 0) & (drawn < 1)).all()
    assert model.reconstruct(images().float(), y).shape == (B, 1, SIDE, SIDE)


def test_captions_can_be_plain_text():
    model = disturbed(CVAE(config("mlp", "attention", "caption")))
    z = torch.randn(B, D).double()
    texts = ["a thick seven", "seven", "thin seven"]
    assert torch.equal(model.likelihood(z, texts).mean, model.likelihood(z, y_of("caption")).mean)


def test_attention_maps_show_where_the_decoder_looked():
    model, z = disturbed(CVAE(config("convolutional", "attention", "caption"))), torch.randn(B, D).double()
    c = model.condition(y_of("caption"))
    maps = attention_maps(model.decoder, z, c)
    assert [tuple(one.shape) for one in maps.values()] == [(B, 4, 7, 7, 4)] * 2
    for one in maps.values():
        torch.testing.assert_close(one.sum(-1), torch.ones(B, 4, 7, 7, dtype=torch.float64))


def test_the_classes_can_be_used_alone():
    for encoder, decoder in ((MLPEncoder, MLPDecoder), (ConvolutionalEncoder, ConvolutionalDecoder)):
        mean, log_variance = encoder((3, 32, 32), (8, 8), D, condition_dim=5)(
            torch.rand(B, 3, 32, 32), torch.rand(B, 5)
        )
        assert mean.shape == log_variance.shape == (B, D)
        assert decoder(D, (8, 8), (3, 32, 32), condition_dim=5)(mean, torch.rand(B, 5)).shape == (B, 3, 32, 32)


def test_a_missing_label_is_minus_one_in_an_embedding_model_too():
    model = disturbed(CVAE(config("mlp", kind="embedding")))
    assert isinstance(model.condition, EmbeddingCondition)
    z = torch.randn(B, D).double()
    expected = unconditional(model).likelihood(z).mean
    torch.testing.assert_close(model.likelihood(z, torch.full((B,), MISSING)).mean, expected, rtol=1e-11, atol=1e-11)
