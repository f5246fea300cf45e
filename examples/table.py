"""A table of mixed columns: model it given an attribute, draw a table as long, and compare the two.

The data are those of the RAND health insurance experiment, 20,190 person-years; statsmodels brings them along.

    python examples/table.py        # about two minutes on two cores
"""

import argparse
import math
from collections import Counter
from typing import Any

import torch
from statsmodels.datasets import randhie

from cvae_lib import CVAE, fit, log_likelihood
from cvae_lib.conditions import LabelCondition
from cvae_lib.data import Table
from cvae_lib.likelihoods import TableLikelihood
from cvae_lib.networks import MLPDecoder, TableEncoder
from cvae_lib.priors import ConditionalMixture


def summary(values: Any) -> str:
    """Say how a column is distributed: mean, standard deviation and quantiles, or the share of each category."""
    if values.dtype.kind not in "if":
        shares = sorted(Counter(values.tolist()).items())
        return "  ".join(f"{name} {100 * count / len(values):.1f}%" for name, count in shares)
    numbers = torch.as_tensor(values).double()
    quantiles = " ".join(f"{q:6.2f}" for q in numbers.quantile(torch.tensor([0.25, 0.5, 0.75, 0.95]).double()))
    return f"mean {numbers.mean():6.2f}  sd {numbers.std():6.2f}  25, 50, 75, 95 % {quantiles}"


arguments = argparse.ArgumentParser()
arguments.add_argument("--epochs", type=int, default=60)
arguments.add_argument("--rows", type=int, default=20_190)
given = arguments.parse_args()

frame = randhie.load_pandas().data.sample(given.rows, random_state=0)
y = torch.tensor((frame.hlthf + frame.hlthp).to_numpy())  # 1: health is fair or poor by one's own account
rows = {
    "visits": frame.mdvis,  # whole numbers are counts
    "coinsurance": [f"{math.expm1(v):03.0f}" for v in frame.lncoins],  # per cent; text is a category
    "individual": frame.idp == 1,
    "incentive": frame.lpi,  # floats are real
    "limit": frame.fmde,
    "limitation": frame.physlm > 0.5,
    "diseases": frame.disea,
}
table = Table.from_data(rows)
x, held_out = table.encode(rows), len(y) // 10
likelihood = TableLikelihood(table.columns)
model = CVAE(
    TableEncoder(table.columns, (128, 128, 128), 8, condition_dim=2),
    MLPDecoder(8, (128, 128, 128), (likelihood.outputs,), condition_dim=2),
    condition=LabelCondition(2),
    prior=ConditionalMixture(8, 2, components=30),
    likelihood=likelihood,
)
fit(model, (x[held_out:], y[held_out:]), epochs=given.epochs)
print("log p(x|y) of rows held out, nats:", log_likelihood(model, (x[:held_out], y[:held_out]), samples=100))
drawn = table.decode(model.draw(y, sample=True))
for value, health in enumerate(["excellent or good", "fair or poor"]):
    print(f"\nhealth is {health}: {int((y == value).sum())} rows of data, and as many drawn")
    for name, column in table.decode(x).items():
        print(f"{name:12} data   {summary(column[y == value])}\n{'':12} drawn  {summary(drawn[name][y == value])}")
