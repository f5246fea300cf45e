"""Tables of mixed columns: in and out, their likelihood against closed forms, and a model of one."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import Categorical, NegativeBinomial, Normal

from cvae_lib import CVAE, CheckpointError, fit, load_checkpoint, log_likelihood, save_checkpoint
from cvae_lib.conditions import LabelCondition
from cvae_lib.data import Column, Table
from cvae_lib.evaluation import collapse_report
from cvae_lib.likelihoods import TableLikelihood
from cvae_lib.networks import MLPDecoder, TableEncoder

PEOPLE: dict[str, Any] = {
    "weight": np.array([70.1, 55.3, 91.7, 64.9]),
    "visits": [0, 3, 77, 1],
    "plan": ["silver", "bronze", "silver", "gold"],
    "smoker": np.array([True, False, False, True]),
    "grade": torch.tensor([2, 1, 1, 2]),
    "change": torch.tensor([-2, 5, 0, 3]),
}
KINDS = {
    "weight": "real",
    "visits": "count",
    "plan": "category",
    "smoker": "category",
    "grade": "category",
    "change": "real",
}
# Every kind, in an order that is not that of the kinds.
COLUMNS = (
    Column("plan", "category", ("bronze", "gold", "silver")),
    Column("weight", "real", mean=70.0, std=12.0),
    Column("visits", "count", mean=1.1, std=0.9),
    Column("height", "real", mean=1.7, std=0.1),
    Column("smoker", "category", (False, True)),
)
ROWS = torch.tensor([[2.0, 81.5, 0.0, 1.66, 1.0], [0.0, 64.0, 3.0, 1.93, 0.0], [1.0, 12.0, 250.0, 1.7, 1.0]]).double()


def with_(**changes: Any) -> dict[str, Any]:
    return PEOPLE | changes


# --- in and out ------------------------------------------------------------------------------------------------------


def test_kinds_follow_from_what_a_column_holds():
    table = Table.from_data(PEOPLE)
    assert {column.name: column.kind for column in table.columns} == KINDS
    weight, visits, plan, *_ = table.columns
    assert plan.categories == ("bronze", "gold", "silver")
    assert (weight.mean, weight.std) == pytest.approx((PEOPLE["weight"].mean(), PEOPLE["weight"].std()))
    logs = [math.log(1 + n) for n in PEOPLE["visits"]]
    assert (visits.mean, visits.std) == pytest.approx((np.mean(logs), np.std(logs)))


def test_a_kind_that_is_given_goes_before_one_that_follows():
    table = Table.from_data(PEOPLE, {"visits": "category", "grade": "count", "change": "category"})
    kinds = [column.kind for column in table.columns]
    assert kinds == ["real", "category", "category", "category", "count", "category"]
    assert table.columns[1].categories == (0, 1, 3, 77)


def test_x_holds_units_counts_and_codes():
    x = Table.from_data(PEOPLE).encode(PEOPLE)
    assert x.dtype == torch.float32
    expected = [[70.1, 0, 2, 1, 1, -2], [55.3, 3, 0, 0, 0, 5], [91.7, 77, 2, 0, 0, 0], [64.9, 1, 1, 1, 1, 3]]
    torch.testing.assert_close(x, torch.tensor(expected))


def test_what_goes_in_comes_out_exactly():
    table = Table.from_data(PEOPLE)
    rows = table.decode(table.encode(PEOPLE, dtype=torch.float64))
    assert list(rows) == list(PEOPLE)
    for name, values in PEOPLE.items():
        assert rows[name].tolist() == np.asarray(values).tolist(), name
    assert [rows[name].dtype.kind for name in PEOPLE] == ["f", "i", "U", "b", "i", "f"]
    # Single precision rounds real numbers, and nothing else.
    single = table.decode(table.encode(PEOPLE))
    assert single["weight"].tolist() == PEOPLE["weight"].astype(np.float32).tolist()
    assert all(single[name].tolist() == rows[name].tolist() for name in ("visits", "plan", "smoker", "grade"))


def test_other_rows_are_read_by_the_same_table_whatever_else_they_hold():
    table = Table.from_data(PEOPLE)
    others = {name: values[1:2] for name, values in reversed(PEOPLE.items())} | {"name": ["Ada"]}
    torch.testing.assert_close(table.encode(others), table.encode(PEOPLE)[1:2])


def test_a_data_frame_is_a_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: np.asarray(values) for name, values in PEOPLE.items()})
    frame["visits"] = frame["visits"].astype("Int64")
    frame["code"] = pandas.Series([5, 7, 9, 5], dtype="category")
    table = Table.from_data(frame)
    assert {column.name: column.kind for column in table.columns} == KINDS | {"code": "category"}
    drawn = pandas.DataFrame(table.decode(table.encode(frame, dtype=torch.float64)))
    assert (drawn == frame).all(axis=None)
    with pytest.raises(ValueError, match="'visits' holds nan in row 2"):
        table.encode(frame.assign(visits=pandas.Series([1, 2, None, 3], dtype="Int64")))
    with pytest.raises(ValueError, match="'plan' has no value in row 0"):
        table.encode(frame.assign(plan=pandas.Series([pandas.NA, "gold", "gold", "gold"], dtype="string")))


def test_columns_survive_json():
    columns = Table.from_data(PEOPLE).columns
    text = json.dumps([dataclasses.asdict(column) for column in columns])
    assert tuple(Column(**values) for values in json.loads(text)) == columns


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (with_(plan=["gold", "gold", "tin", "gold"]), "Column 'plan' holds 'tin' in row 2, which is none of "),
        (with_(plan=["gold", None, "gold", "gold"]), "Column 'plan' has no value in row 1"),
        (with_(plan=["gold", "gold", "gold", math.nan]), "Column 'plan' has no value in row 3"),
        (with_(weight=[70.0, math.nan, 80.0, 60.0]), "Column 'weight' holds nan in row 1, which is not finite"),
        (with_(weight=[70.0, 50.0, 80.0, math.inf]), "Column 'weight' holds inf in row 3, which is not finite"),
        (with_(weight=["70", "50", "heavy", "60"]), "Column 'weight' holds 'heavy' in row 2, which is no number"),
        (with_(visits=[0, 1.5, 2, 3]), r"Column 'visits' holds 1.5 in row 1, which is no count"),
        (with_(visits=[0, 1, 2, -3]), r"Column 'visits' holds -3 in row 3, which is no count"),
        (with_(visits=[0, 1, 2, 2**24 + 1]), "Column 'visits' holds 16777217 in row 3, which torch.float32 does not"),
        (with_(visits=[0, 1, 2]), "All columns must have as many rows, but they have: weight 4, visits 3"),
        (with_(visits=[[0], [1], [2], [3]]), r"Column 'visits' must have one value for each row, not shape \(4, 1\)"),
        ({"weight": [70.0]}, "Column 'visits' is not in these data, which have weight"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_sentence(rows: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Table.from_data(PEOPLE).encode(rows)


@pytest.mark.parametrize(
    ("rows", "kinds", "sentence"),
    [
        ({"weight": [70.0, 70.0]}, {}, "Column 'weight' is 70.0 in every row, so it tells nothing"),
        ({"visits": [3, 3]}, {"visits": "count"}, "Column 'visits' is 3 in every row"),
        ({"plan": ["gold", "gold"]}, {}, "Column 'plan' is gold in every row"),
        ({"visits": [3.5, 1.0]}, {"visits": "count"}, "Column 'visits' holds 3.5 in row 0, which is no count"),
        ({"plan": ["gold", None]}, {}, "Column 'plan' has no value in row 1"),
        ({"plan": ["gold", "tin", math.nan]}, {}, "Column 'plan' has no value in row 2"),
        ({"time": [1.7e9, 1.7e9 + 1]}, {}, "Column 'time' varies by 0.5 around 17.*, too little for float32"),
        ({"day": np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]")}, {}, "Column 'day' holds datetime64"),
        ({"weight": [70.0, 71.0]}, {"height": "real"}, "kinds names 'height', which is no column; there are weight"),
        ({"weight": [70.0, 71.0]}, {"weight": "ordinal"}, "Column 'weight' is 'real', 'count' or 'category'"),
        ({}, {}, "at least one column"),
    ],
)
def test_training_rows_that_make_no_table_are_refused(
    rows: dict[str, Any], kinds: dict[str, Any], sentence: str, as_users_call: None
):
    with pytest.raises(ValueError, match=sentence):
        Table.from_data(rows, kinds)


def test_means_are_no_rows():
    with pytest.raises(ValueError, match="Column 'visits' must be a whole number of at least 0, and is 2.5 in row 1"):
        Table(COLUMNS).decode(torch.tensor([[0, 1.0, 2.0, 1.0, 0], [0, 1.0, 2.5, 1.0, 0]]))
    with pytest.raises(ValueError, match="A row of this table is 5 floats"):
        Table(COLUMNS).decode(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "ordinal"}, "'real', 'count' or 'category'"),
        ({"kind": "category", "categories": ["a"]}, "at least two categories"),
        ({"kind": "category", "categories": ["a", "a"]}, "all different"),
        ({"kind": "real", "categories": ["a", "b"]}, "only kind='category' has"),
        ({"kind": "real", "std": 0.0}, "std above 0"),
    ],
)
def test_impossible_columns_are_refused(values: dict[str, Any], sentence: str, as_users_call: None):
    with pytest.raises(ValueError, match=sentence):
        Column("f", **values)


# --- the likelihood --------------------------------------------------------------------------------------------------


def outputs_for(likelihood: TableLikelihood, *batch: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*batch, likelihood.outputs, dtype=torch.float64)


def parts_of(output: Tensor) -> tuple[Tensor, ...]:
    """Return what the docstring says the outputs of COLUMNS are: a, b, log-variances, log r, two sets of logits."""
    a, b, log_variance, log_r, plan, smoker = output.split([2, 1, 2, 1, 3, 2], -1)
    bounded = [10 * torch.tanh(raw / 10) for raw in (b, log_variance, log_r)]
    return (a, *bounded, plan, smoker)


def test_each_column_has_the_log_probability_of_its_kind():
    likelihood = TableLikelihood(COLUMNS).double()
    output = outputs_for(likelihood, 3)
    a, b, log_variance, log_r, plan, smoker = parts_of(output)
    sigma, r, mu = (log_variance / 2).exp(), log_r.exp(), (math.exp(1.1) - 1) * b.exp()
    expected = [
        Categorical(logits=plan).log_prob(ROWS[:, 0]),
        Normal(70 + 12 * a[:, 0], 12 * sigma[:, 0]).log_prob(ROWS[:, 1]),
        NegativeBinomial(r[:, 0], probs=(mu / (mu + r))[:, 0]).log_prob(ROWS[:, 2]),
        Normal(1.7 + 0.1 * a[:, 1], 0.1 * sigma[:, 1]).log_prob(ROWS[:, 3]),
        Categorical(logits=smoker).log_prob(ROWS[:, 4]),
    ]
    p = likelihood(output)
    assert (p.batch_shape, p.event_shape) == ((3,), (5,))
    # The buffers were made in single precision, so 70.0 is exact and 0.1 is not.
    torch.testing.assert_close(p.log_prob_by_column(ROWS), torch.stack(expected, 1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.log_prob(ROWS), p.log_prob_by_column(ROWS).sum(1))
    for place, column in enumerate(COLUMNS):
        torch.testing.assert_close(p.column(column.name).log_prob(ROWS[:, place]), p.log_prob_by_column(ROWS)[:, place])


def test_several_z_for_each_row_broadcast():
    likelihood = TableLikelihood(COLUMNS).double()
    output = outputs_for(likelihood, 4, 3)  # K = 4
    p = likelihood(output)
    assert p.sample().shape == (4, 3, 5)
    assert p.sample(torch.Size((2,))).shape == (2, 4, 3, 5)
    each = torch.stack([likelihood(one).log_prob(ROWS) for one in output])
    torch.testing.assert_close(p.log_prob(ROWS), each)


def test_a_scale_for_each_column_is_one_learned_number():
    likelihood = TableLikelihood(COLUMNS, scale="column").double()
    assert likelihood.outputs == TableLikelihood(COLUMNS).outputs - 3
    (raw,) = likelihood.parameters()
    with torch.no_grad():
        raw.copy_(torch.tensor([0.3, -1.2, 0.8]))
    output = outputs_for(likelihood, 3)
    whole = torch.cat([output[:, :3], raw.detach().expand(3, 3), output[:, 3:]], 1)
    torch.testing.assert_close(
        likelihood(output).log_prob(ROWS), TableLikelihood(COLUMNS).double()(whole).log_prob(ROWS)
    )
    likelihood(output).log_prob(ROWS).sum().backward()
    assert raw.grad is not None and bool((raw.grad != 0).all())


def test_probabilities_of_each_column_sum_to_one():
    columns = (
        Column("u", "real", mean=-3.0, std=2.0),
        Column("n", "count", mean=1.0),
        Column("c", "category", (1, 2, 3)),
    )
    likelihood = TableLikelihood(columns).double()
    p = likelihood(outputs_for(likelihood, size=0.5))
    line = torch.linspace(-60, 60, 40_001).double()
    grids = [line, torch.arange(5000).double(), torch.arange(3).double()]
    for place, (grid, column) in enumerate(zip(grids, columns, strict=True)):
        rows = torch.zeros(len(grid), 3).double()
        rows[:, place] = grid
        density = p.log_prob_by_column(rows)[:, place].exp()
        total = torch.trapezoid(density, grid) if column.kind == "real" else density.sum()
        assert float(total) == pytest.approx(1, abs=1e-6), column.name


def test_gradients_are_those_of_finite_differences():
    likelihood = TableLikelihood(COLUMNS).double()
    output = outputs_for(likelihood, 3).requires_grad_()
    assert gradcheck(lambda values: likelihood(values).log_prob(ROWS), (output,))


@pytest.mark.parametrize("scale", ["row", "column"])
def test_another_unit_moves_nats_by_the_logarithm_of_the_factor(scale: Any):
    pounds = {"weight": torch.tensor([150.0, 121.0, 198.5, 143.2]).double(), "visits": PEOPLE["visits"]}
    factor = 0.45359237
    kilos = pounds | {"weight": factor * pounds["weight"]}
    nats = []
    output = None
    for rows in (pounds, kilos):
        table = Table.from_data(rows)
        likelihood = TableLikelihood(table.columns, scale).double()
        output = outputs_for(likelihood, 4) if output is None else output
        nats.append(likelihood(output).log_prob(table.encode(rows, dtype=torch.float64)))
    torch.testing.assert_close(nats[1] - nats[0], torch.full((4,), -math.log(factor)).double(), rtol=0, atol=1e-5)


def test_large_counts_keep_their_digits_in_single_precision():
    stats = pytest.importorskip("scipy.stats")
    likelihood = TableLikelihood([Column("n", "count", mean=10.0)])  # mu is about 22,000
    output = torch.tensor([[0.2, 30.0], [-0.1, 9.0], [0.0, -3.0]])
    n = torch.tensor([[26_900.0], [19_931.0], [1_000_000.0]])
    mu, r = (np.exp(10 * np.tanh(raw.double().numpy() / 10)) for raw in output.T)
    mu = np.expm1(10.0) * mu
    expected = stats.nbinom.logpmf(n[:, 0].double().numpy(), r, r / (r + mu))
    np.testing.assert_allclose(likelihood(output).log_prob(n).numpy(), expected, rtol=1e-4)


def test_samples_have_the_marginals_of_their_columns():
    likelihood = TableLikelihood(COLUMNS).double()
    output = 0.5 * outputs_for(likelihood)
    p, n = likelihood(output), 40_000
    rows = p.sample(torch.Size((n,)))
    assert rows.shape == (n, 5)
    assert bool(likelihood.fits(rows).all())
    for place, column in enumerate(COLUMNS):
        drawn, one = rows[:, place], p.column(column.name)
        if column.kind == "category":
            shares = torch.stack([(drawn == code).double().mean() for code in range(len(column.categories))])
            error = (one.probs * (1 - one.probs) / n).sqrt()
            assert bool(((shares - one.probs).abs() < 5 * error).all()), column.name
        else:
            assert abs(float(drawn.mean() - one.mean)) < 5 * float((one.variance / n).sqrt()), column.name
            # The variance of a variance depends on the kurtosis, which is taken from the sample.
            squares = (drawn - one.mean).square()
            assert abs(float(squares.mean() - one.variance)) < 5 * float(squares.std() / math.sqrt(n)), column.name
    # The heavy tail is there: the share above a high quantile, by summation.
    count = p.column("visits")
    below = count.log_prob(torch.arange(20).double()).exp().sum()
    above = (rows[:, 2] >= 20).double().mean()
    assert float(above) == pytest.approx(float(1 - below), abs=5 * math.sqrt(float(below * (1 - below)) / n) + 1e-4)


def test_counts_vary_more_than_a_poisson():
    likelihood = TableLikelihood([Column("n", "count", mean=1.0)]).double()
    one = likelihood(torch.tensor([0.7, -0.4]).double()).column("n")
    mu, r = (math.e - 1) * math.exp(10 * math.tanh(0.07)), math.exp(10 * math.tanh(-0.04))
    assert float(one.mean) == pytest.approx(mu)
    assert float(one.variance) == pytest.approx(mu + mu**2 / r)


def test_a_row_has_a_mean_where_every_column_has_one():
    numbers = TableLikelihood([COLUMNS[1], COLUMNS[2]]).double()
    p = numbers(outputs_for(numbers, 2))
    torch.testing.assert_close(p.mean, torch.stack([p.column("weight").mean, p.column("visits").mean], 1))
    mixed = TableLikelihood(COLUMNS).double()
    with pytest.raises(NotImplementedError):
        _ = mixed(outputs_for(mixed, 2)).mean


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, 3.0, "Column 'plan' must be a code from 0 to 2, and is 3 in row 1"),
        (1, math.nan, "Column 'weight' must be finite, and is nan in row 1"),
        (2, -1.0, "Column 'visits' must be a whole number of at least 0, and is -1 in row 1"),
        (2, 1.5, "Column 'visits' must be a whole number of at least 0, and is 1.5 in row 1"),
        (4, 0.5, "Column 'smoker' must be a code from 0 to 1, and is 0.5 in row 1"),
    ],
)
def test_what_is_no_row_is_refused_by_name(place: int, value: float, sentence: str):
    likelihood = TableLikelihood(COLUMNS).double()
    rows = ROWS.clone()
    rows[1, place] = value
    assert likelihood.fits(rows).tolist() == [True, False, True]
    for read in (likelihood(outputs_for(likelihood, 3)).log_prob, TableEncoder(COLUMNS, (8,), 2).double().features):
        with pytest.raises(ValueError, match=sentence):
            read(rows)


def test_wrong_settings_and_sizes_are_refused(as_users_call: None):
    with pytest.raises(ValueError, match="scale is 'row' or 'column', not 'pixel'"):
        TableLikelihood(COLUMNS, scale="pixel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="This table needs 11 numbers for each row, and the decoder gives 10"):
        TableLikelihood(COLUMNS)(torch.zeros(2, 10))
    with pytest.raises(ValueError, match="at least one column"):
        TableLikelihood([])
    with pytest.raises(ValueError, match="each its own name"):
        TableEncoder([COLUMNS[0], COLUMNS[0]], (8,), 2)
    with pytest.raises(ValueError, match="There is no column 'age'; there are plan, weight"):
        TableLikelihood(COLUMNS)(torch.zeros(2, 11)).column("age")


def test_the_encoder_reads_numbers_standardised_and_categories_one_hot():
    found = TableEncoder(COLUMNS, (8,), 2).double().features(ROWS)
    expected = [
        [(81.5 - 70) / 12, -0.4, (0 - 1.1) / 0.9, 0, 0, 1, 0, 1],
        [(64 - 70) / 12, 2.3, (math.log(4) - 1.1) / 0.9, 1, 0, 0, 1, 0],
        [(12 - 70) / 12, 0, (math.log(251) - 1.1) / 0.9, 0, 1, 0, 0, 1],
    ]
    places = [0, 1, 2, *range(3, 8)]
    torch.testing.assert_close(found[:, places], torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


# --- a model of a table ----------------------------------------------------------------------------------------------


def table_model(columns: tuple[Column, ...], width: int = 32) -> CVAE:
    likelihood = TableLikelihood(columns)
    return CVAE(
        TableEncoder(columns, (width,), 2, condition_dim=2),
        MLPDecoder(2, (width,), (likelihood.outputs,), condition_dim=2),
        condition=LabelCondition(2),
        likelihood=likelihood,
    )


def simulated(count: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Return rows whose columns are independent given y, y, and the true log p(x|y) of each row."""
    y = torch.randint(2, (count,))
    weight = Normal(torch.tensor([60.0, 80.0])[y], torch.tensor([5.0, 9.0])[y])
    visits = NegativeBinomial(torch.tensor([0.7, 2.0])[y], probs=torch.tensor([0.6, 0.8])[y])
    plan = Categorical(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])[y])
    w, v, c = weight.sample(), visits.sample(), plan.sample()
    rows = {"weight": w, "visits": v.long(), "plan": [["bronze", "gold", "silver"][code] for code in c.tolist()]}
    return rows, y, weight.log_prob(w) + visits.log_prob(v) + plan.log_prob(c)


def test_a_model_comes_to_the_entropy_of_its_table_and_draws_tables_like_it(full_profile: None):
    rows, y, _ = simulated(4000)
    unseen, their_y, truth = simulated(1000)
    table = Table.from_data(rows)
    model = table_model(table.columns)
    fit(
        model, (table.encode(rows), y), epochs=25, batch_size=128, learning_rate=5e-3, device="cpu", precision="float32"
    )
    found = log_likelihood(model, (table.encode(unseen), their_y), samples=20)
    lost = truth - found.per_example
    error = float(lost.std() / math.sqrt(len(lost)))
    # Nothing goes below the entropy in the mean; over ten seeds training came within 0.003 of it.
    assert -5 * error < float(lost.mean()) < 0.01 + 5 * error

    drawn = table.decode(model.draw(their_y, sample=True))
    assert drawn["visits"].dtype.kind == "i" and set(drawn["plan"]) == {"bronze", "gold", "silver"}
    for value, mean, visits, bronze in ((0, 60, 0.7 * 0.6 / 0.4, 0.7), (1, 80, 2 * 0.8 / 0.2, 0.1)):
        told = (their_y == value).numpy()
        assert drawn["weight"][told].mean() == pytest.approx(mean, abs=2)
        assert drawn["visits"][told].mean() == pytest.approx(visits, rel=0.3)
        assert (drawn["plan"][told] == "bronze").mean() == pytest.approx(bronze, abs=0.1)


def test_training_names_a_row_that_is_none():
    rows, y, _ = simulated(50)
    table = Table.from_data(rows)
    x = table.encode(rows)
    x[7, 1] = 0.5
    with pytest.raises(ValueError, match="not finite, with whole counts of at least 0 and known categories.*example 7"):
        fit(table_model(table.columns), (x, y), steps=1, device="cpu")


def test_a_table_has_to_be_sampled_and_says_so():
    model = table_model(COLUMNS)
    with pytest.raises(ValueError, match="A TableRow has no mean; pass sample=True"):
        model.draw([0, 1])
    with pytest.raises(ValueError, match="A TableRow has no mean"):
        model.reconstruct(ROWS.float(), [0, 1, 1])
    assert bool(model.likelihood_module.fits(model.draw([0, 1], sample=True)).all())


def test_a_checkpoint_carries_the_constants(tmp_path: Path):
    rows, y, _ = simulated(200)
    table = Table.from_data(rows)
    model = table_model(table.columns).eval()
    x = table.encode(rows)
    save_checkpoint(tmp_path, model)
    others = Table.from_data(simulated(200)[0]).columns  # the same columns, seen in other rows
    assert others != table.columns
    again, _ = load_checkpoint(tmp_path, model=table_model(others))
    z = torch.randn(200, 2)
    torch.testing.assert_close(again.posterior(x, y).mean, model.posterior(x, y).mean, rtol=0, atol=0)
    torch.testing.assert_close(again.likelihood(z, y).log_prob(x), model.likelihood(z, y).log_prob(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "other",
    [
        Column("plan", "category", ("gold", "bronze", "silver")),
        Column("tariff", "category", ("bronze", "gold", "silver")),
    ],
)
def test_weights_of_another_table_are_refused(tmp_path: Path, other: Column):
    save_checkpoint(tmp_path, table_model(COLUMNS))
    with pytest.raises(CheckpointError, match=f"Column {other.name!r} is not the one that these weights"):
        load_checkpoint(tmp_path, model=table_model((other, *COLUMNS[1:])))


def test_an_average_of_the_weights_leaves_the_table_as_it_is():
    rows, y, _ = simulated(64)
    table = Table.from_data(rows)
    x, model = table.encode(rows), table_model(table.columns)
    history = fit(model, (x, y), epochs=3, device="cpu", ema=0.9, validation=(x, y), patience=2)
    assert all(math.isfinite(value) for value in history.validation)
    assert bool(model.likelihood_module.fits(x).all())
    fresh = table_model(table.columns)
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, dict(fresh.named_buffers())[name], rtol=1e-6, atol=0)


def test_a_table_can_be_judged():
    rows, y, _ = simulated(100)
    table = Table.from_data(rows)
    report = collapse_report(table_model(table.columns), (table.encode(rows), y))
    assert "nats" in str(report)
    assert math.isnan(report.z_used.output_change.mean)  # a category has no mean that z could move
    assert math.isfinite(report.z_used.likelihood_lost.mean)


def test_training_goes_on_from_its_checkpoint(tmp_path: Path):
    rows, y, _ = simulated(64)
    table = Table.from_data(rows)
    fit(table_model(table.columns), (table.encode(rows), y), epochs=1, device="cpu", checkpoint=tmp_path, ema=0.9)
    history = fit(
        table_model(table.columns),
        (table.encode(rows), y),
        epochs=2,
        device="cpu",
        checkpoint=tmp_path,
        ema=0.9,
        resume=True,
    )
    assert len(history) == 2
