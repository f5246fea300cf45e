"""What y is: every condition's c against its formula, what missing means, and what is refused."""

import math

import pytest
import torch
from torch import nn

from cvae_lib import conditions
from cvae_lib.conditions import (
    MISSING,
    AttributeCondition,
    CaptionCondition,
    CompositeCondition,
    Condition,
    EmbeddingCondition,
    LabelCondition,
    NoCondition,
    Observed,
    ObservedCondition,
    Tokens,
    Vocabulary,
)
from cvae_lib.model import CVAE, CVAEConfig

WORDS = Vocabulary(("a", "seven", "thick", "thin"), 4)
LABELS = torch.tensor([2, 0, 1, 2, 1])
ATTRIBUTES = torch.tensor([[1.0, -3.0], [0.5, 2.0], [2.5, 0.0], [-1.0, 7.0], [0.0, 1.0]])
CAPTIONS = WORDS.encode(["a thick seven", "seven", "a thin seven", "thin", "a"])
MASK = torch.rand(5, 1, 4, 3, generator=torch.Generator().manual_seed(7)) < 0.5
OBSERVED = Observed(torch.rand(5, 2, 4, 3, generator=torch.Generator().manual_seed(8)), MASK)


def every() -> dict[str, tuple[Condition, object]]:
    """Return each condition with a y for five examples."""
    return {
        "label": (LabelCondition(3), LABELS),
        "embedding": (EmbeddingCondition(3, 6), LABELS),
        "attributes": (AttributeCondition(("thickness", "slant")), ATTRIBUTES),
        "caption": (CaptionCondition(WORDS, 6), CAPTIONS),
        "observed": (ObservedCondition((2, 4, 3)), OBSERVED),
        "observed flat": (ObservedCondition((2, 4, 3), flat=True), OBSERVED),
        "composite": (CompositeCondition(LabelCondition(3), AttributeCondition(("t", "s"))), (LABELS, ATTRIBUTES)),
    }


def flat(c: torch.Tensor | Tokens) -> torch.Tensor:
    """Return all that a network can read of c, one row per example."""
    return torch.cat([c.values.flatten(1), c.mask], dim=1) if isinstance(c, Tokens) else c.flatten(1)


# --- what holds for all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", every())
def test_c_has_the_kind_and_width_that_the_condition_says(name):
    condition, y = every()[name]
    c = condition(y)
    shapes = {"vector": (5, condition.dim), "tokens": (5, 4, condition.dim), "image": (5, condition.dim, 4, 3)}
    assert (c.values if isinstance(c, Tokens) else c).shape == shapes[condition.kind]
    assert isinstance(c, Tokens) == (condition.kind == "tokens")
    assert conditions.examples(c) == 5
    assert conditions.as_vector(c).shape == (5, condition.vector_dim)


@pytest.mark.parametrize("name", every())
def test_a_missing_y_is_zero_or_all_padding_and_leaves_its_neighbours_alone(name):
    condition, y = every()[name]
    where = torch.tensor([True, False, False, True, False])
    before, after = flat(condition(y)), flat(condition(condition.mask_out(y, where)))
    assert (after[where] == 0).all()
    assert torch.equal(after[~where], before[~where])
    assert before[where].abs().sum(1).min() > 0


@pytest.mark.parametrize("name", every())
def test_dropping_is_seeded_never_at_zero_and_always_at_one(name):
    condition, y = every()[name]
    before = torch.get_rng_state()

    def dropped(probability: float, seed: int) -> torch.Tensor:
        return flat(condition(condition.drop(y, probability, torch.Generator().manual_seed(seed))))

    assert torch.equal(dropped(0.5, 1), dropped(0.5, 1))
    assert any(not torch.equal(dropped(0.5, 1), dropped(0.5, seed)) for seed in range(2, 8))
    assert torch.equal(dropped(0.0, 1), flat(condition(y)))
    assert (dropped(1.0, 1) == 0).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_are_dropped_as_often_as_told_whole_and_independently():
    y = torch.zeros(40_000, dtype=torch.int64)
    gone = LabelCondition(3).drop(y, 0.1, torch.Generator().manual_seed(0)) == MISSING
    error = math.sqrt(0.1 * 0.9 / len(y))
    assert abs(gone.double().mean() - 0.1) < 4 * error
    assert abs((gone[1:] & gone[:-1]).double().mean() - 0.01) < 4 * math.sqrt(0.01 / len(y))
    rows = AttributeCondition(("a", "b")).drop(torch.zeros(1000, 2), 0.5, torch.Generator().manual_seed(0)).isnan()
    assert torch.equal(rows[:, 0], rows[:, 1]) and 0 < int(rows[:, 0].sum()) < 1000


@pytest.mark.parametrize("name", every())
def test_a_missing_argument_is_asked_for(name, as_users_call):
    with pytest.raises(ValueError, match="conditional: pass y"):
        every()[name][0](None)


@pytest.mark.parametrize("probability", [-0.1, 1.5, math.nan])
def test_a_probability_outside_its_range_is_refused(probability):
    with pytest.raises(ValueError, match="between 0 and 1"):
        LabelCondition(3).drop(LABELS, probability)


@pytest.mark.parametrize("name", every())
def test_conditions_follow_float64_and_the_meta_device(name):
    condition, y = every()[name]
    c = condition.double()(y)
    assert (c.values if isinstance(c, Tokens) else c).shape[0] == 5

    def to_meta(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        moved = [to_meta(part) for part in value]
        return Observed(*moved) if isinstance(value, Observed) else tuple(moved)

    c = condition.to("meta")(to_meta(y))
    assert conditions.examples(c) == 5 and (c.values if isinstance(c, Tokens) else c).device.type == "meta"


# --- none ---------------------------------------------------------------------------------------------------


def test_no_condition_reads_and_drops_nothing():
    nothing = NoCondition()
    assert (nothing.dim, nothing.kind, nothing(LABELS)) == (0, "none", None)
    assert nothing.drop(LABELS, 1.0) is LABELS


# --- labels -------------------------------------------------------------------------------------------------


def test_an_embedding_is_torchs_own_and_a_one_hot_row_times_the_table():
    condition = EmbeddingCondition(3, 6)
    torch.testing.assert_close(condition(LABELS), nn.functional.embedding(LABELS, condition.embed.weight))
    torch.testing.assert_close(condition(LABELS), LabelCondition(3)(LABELS) @ condition.embed.weight)


def test_a_missing_label_sends_no_gradient_into_the_table():
    condition = EmbeddingCondition(3, 2)
    condition(torch.tensor([MISSING, 1])).sum().backward()
    assert condition.embed.weight.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("condition", [LabelCondition(3), EmbeddingCondition(3, 2)], ids=["label", "embedding"])
@pytest.mark.parametrize(
    "y, sentence",
    [
        (torch.tensor([0, 3]), r"0\.\.2 \(or -1 for missing\), but run from 0 to 3"),
        (torch.tensor([-2, 1]), "from -2 to 1"),
        (torch.tensor([0.0, 1.0]), r"int64 of shape \(B,\), not torch.float32 of shape \(2,\)"),
        (torch.tensor([[1]]), r"not torch.int64 of shape \(1, 1\)"),
        ([0, 1], "not list"),
    ],
)
def test_wrong_labels_are_named(condition, y, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        condition(y)


def test_labels_need_classes():
    with pytest.raises(ValueError, match="at least 1 class"):
        LabelCondition(0)
    with pytest.raises(ValueError, match="3 and 0"):
        EmbeddingCondition(3, 0)


# --- attributes ---------------------------------------------------------------------------------------------


def test_attributes_are_standardised_without_what_is_unknown():
    condition = AttributeCondition(("thickness", "slant"))
    training = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([3.0, 0.2]) + torch.tensor([10.0, -1.0])
    training[::3, 0] = math.nan
    encoded = condition.double().standardise(training).encode(training)
    assert torch.equal(encoded.isnan(), training.isnan())
    known = encoded[~training[:, 0].isnan(), 0]
    for column in (known, encoded[:, 1]):
        assert column.mean().item() == pytest.approx(0, abs=1e-12)
        assert column.square().mean().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(condition.decode(encoded), training, equal_nan=True, rtol=1e-14, atol=1e-14)


def test_an_attribute_is_told_with_a_flag_and_unknown_is_not_average():
    condition = AttributeCondition(("thickness", "slant"))
    condition.mean.copy_(torch.tensor([1.0, 0.0]))
    condition.std.copy_(torch.tensor([2.0, 4.0]))
    c = condition(torch.tensor([[5.0, 2.0], [math.nan, 0.0], [1.0, math.nan]]))
    assert c.tolist() == [[2, 0.5, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_the_scale_is_kept_with_the_weights():
    condition = AttributeCondition(("thickness", "slant")).standardise(ATTRIBUTES)
    again = AttributeCondition(("thickness", "slant"))
    again.load_state_dict(condition.state_dict())
    assert torch.equal(again(ATTRIBUTES), condition(ATTRIBUTES))


def test_attributes_by_name_become_columns():
    condition = AttributeCondition(("slant", "thickness"))
    table = {"thickness": ATTRIBUTES[:, 0], "slant": ATTRIBUTES[:, 1], "size": ATTRIBUTES[:, 1]}
    assert torch.equal(condition.stack(table), ATTRIBUTES.flip(1))
    with pytest.raises(ValueError, match="no attribute 'slant'; there are thickness"):
        condition.stack({"thickness": ATTRIBUTES[:, 0]})


@pytest.mark.parametrize(
    "y, sentence",
    [
        (torch.ones(3, 3), r"\(B, 2\) for thickness, slant.*not torch.float32 of shape \(3, 3\)"),
        (torch.ones(2), "shape"),
        (torch.ones(3, 2, dtype=torch.int64), "floating point.*int64"),
        (torch.tensor([[1.0, math.inf]]), "finite"),
        ([1.0, 2.0], "not list"),
    ],
)
def test_wrong_attributes_are_named(y, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        AttributeCondition(("thickness", "slant"))(y)


def test_an_attribute_that_never_varies_is_refused():
    for training in (torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[1.0, math.nan], [3.0, math.nan]])):
        with pytest.raises(ValueError, match="'slant' does not vary"):
            AttributeCondition(("thickness", "slant")).standardise(training)
    with pytest.raises(ValueError, match="each its own"):
        AttributeCondition(("a", "a"))


# --- captions -----------------------------------------------------------------------------------------------


def test_words_are_numbered_padded_and_read_back():
    words = Vocabulary.from_texts(["A thick seven!", "the 'thin' one, don't"])
    assert words.words == ("a", "don't", "one", "seven", "the", "thick", "thin") and words.length == 4
    ids = words.encode(["Thick SEVEN.", "", "a a a a"])
    assert ids.tolist() == [[6, 4, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert words.decode(ids) == ["thick seven", "", "a a a a"]
    for wrong in (-1, len(words) + 1):
        with pytest.raises(ValueError, match="Word numbers lie in"):
            words.decode(torch.tensor([[1, wrong]]))


def test_a_caption_is_the_vector_of_its_word_plus_that_of_its_place():
    condition = CaptionCondition(WORDS, 6)
    c = condition(["thin seven"])
    table, place = condition.embed.weight, condition.position
    torch.testing.assert_close(c.values[0, :2], torch.stack([table[4] + place[0], table[2] + place[1]]))
    assert c.mask.tolist() == [[True, True, False, False]] and (c.values[0, 2:] == 0).all()


def test_texts_and_numbers_are_the_same_caption():
    condition = CaptionCondition(WORDS, 6)
    from_text, from_ids = condition(["a thin seven"]), condition(WORDS.encode(["a thin seven"]))
    assert torch.equal(from_text.values, from_ids.values) and torch.equal(from_text.mask, from_ids.mask)
    assert condition.drop(["thin", "a"], 1.0).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize(
    "texts, sentence",
    [
        (["a thik seven"], "'thik' is not in the vocabulary; did you mean 'thick'"),
        (["xylophone"], "it knows a, seven, thick, thin"),
        (["a a a a a"], "at most 4 words, and 'a a a a a' has 5"),
        ("thick seven", "not a single string"),
        (torch.tensor([[5, 1]]), r"1\.\.4 \(or 0 for padding\), but run from 1 to 5"),
        (torch.tensor([[-1, 1]]), "from -1"),
        (torch.ones(2, 5, dtype=torch.int64), "fewer columns, not torch.int64"),
        (torch.ones(2, 3), "not torch.float32"),
        ([1, 2], "not list"),
    ],
)
def test_wrong_captions_are_named(texts, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        CaptionCondition(WORDS, 6)(texts)


@pytest.mark.parametrize(
    "words, length, sentence",
    [((), 3, "at least one"), (("a",), 0, "length"), (("a", "a"), 2, "doubles"), (("Thick",), 2, "'Thick'")],
)
def test_wrong_vocabularies_are_named(words, length, sentence):
    with pytest.raises(ValueError, match=sentence):
        Vocabulary(words, length)


# --- observed parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "flat"])
def test_what_is_not_observed_is_never_read(kind):
    condition = ObservedCondition((2, 4, 3), flat=kind == "flat")
    c = condition(OBSERVED)
    expected = torch.cat([OBSERVED.image * MASK, MASK.float()], dim=1)
    assert torch.equal(c, expected.flatten(1) if kind == "flat" else expected)
    spoilt = torch.where(MASK, OBSERVED.image, torch.nan)
    assert torch.equal(condition(Observed(spoilt, MASK)), c)


@pytest.mark.parametrize(
    "y, sentence",
    [
        (torch.zeros(5, 2, 4, 3), "must be Observed"),
        (Observed(torch.zeros(5, 1, 4, 3), MASK), r"image \(B, 2, 4, 3\)"),
        (Observed(OBSERVED.image, MASK.float()), "mask torch.float32"),
        (Observed(OBSERVED.image, MASK[:3]), r"mask torch.bool of shape \(3, 1, 4, 3\)"),
        (Observed((OBSERVED.image * 255).byte(), MASK), "image torch.uint8"),
    ],
)
def test_wrong_observed_parts_are_named(y, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        ObservedCondition((2, 4, 3))(y)


# --- several at once, and by name ---------------------------------------------------------------------------


def test_a_composite_is_its_parts_side_by_side_and_each_can_be_missing_alone():
    condition, y = every()["composite"]
    labels, attributes = condition.parts
    assert torch.equal(condition(y), torch.cat([labels(LABELS), attributes(ATTRIBUTES)], dim=1))
    c = condition((torch.full((5,), MISSING), ATTRIBUTES))
    assert (c[:, :3] == 0).all() and torch.equal(c[:, 3:], attributes(ATTRIBUTES))


@pytest.mark.parametrize(
    "y, sentence",
    [((LABELS,), "2 parts"), (LABELS, "2 parts"), ((LABELS[:3], ATTRIBUTES), r"one length, not \[3, 5\]")],
)
def test_wrong_composites_are_named(y, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence):
        every()["composite"][0](y)


def test_only_vectors_can_be_joined():
    with pytest.raises(ValueError, match="give vectors"):
        CompositeCondition(LabelCondition(3), CaptionCondition(WORDS, 6))


def test_conditions_are_made_by_name():
    settings = {"num_classes": 3, "attributes": ("slant",), "hidden": (4,)}
    both = CVAE(CVAEConfig(condition="label+attributes", **settings)).condition
    assert both.dim == 3 + 2
    y = torch.tensor([2]), torch.tensor([[0.5]])
    assert both(y).tolist() == [[0, 0, 1, 0.5, 1]]
    with pytest.raises(ValueError, match=r"no condition 'colour'; choose from none, label"):
        CVAE(CVAEConfig(condition="label+colour", **settings))


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 2, 3)], ids=str)
def test_a_y_of_ones_own_that_is_not_finite_is_named_by_its_row(shape):
    class Own(Condition):
        dim = 1

    y = torch.zeros(shape)
    Own().check(y)
    y[2] = math.nan
    with pytest.raises(ValueError, match="not finite in row 2"):
        Own().check(y)
    Own.allows_nan = True
    Own().check(y)


def test_only_images_can_be_observed_in_part():
    with pytest.raises(ValueError, match=r"an image \(channels, H, W\), not \(24,\)"):
        ObservedCondition((24,))


def test_a_condition_without_its_methods_says_so():
    with pytest.raises(NotImplementedError, match="forward"):
        Condition()(LABELS)
    with pytest.raises(NotImplementedError, match="mask_out"):
        Condition().drop(LABELS, 0.5)
