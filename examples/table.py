"""A table of mixed columns: model it given an attribute, draw a table as long, and compare the two.

``python examples/table.py [epochs rows]`` takes about two minutes on two cores. The data are those of the RAND health
insurance experiment, 20,190 person-years, which statsmodels brings along.
"""

import math
import sys
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
    """Say how a column is spread: mean, standard deviation and quantiles, or the share of each category."""
    if values.dtype.kind not in "if":
        return "  ".join(f"{name}: {100 * (values == name).mean():.1f}%" for name in sorted(set(values.tolist())))
    numbers = torch.as_tensor(values).double()
    at = "  ".join(f"{p}%: {numbers.quantile(p / 100):.2f}" for p in (25, 50, 75, 95))
    return f"mean {numbers.mean():.2f}  sd {numbers.std():.2f}  {at}"


torch.manual_seed(0)
epochs, count = map(int, sys.argv[1:] or (60, 20_190))
frame = randhie.load_pandas().data.sample(count, random_state=0)
y = torch.tensor((frame.hlthf + frame.hlthp).to_numpy())  # 1: health is fair or poor by one's own account
rows = {
    "visits": frame.mdvis,  # whole numbers are counts
    "coinsurance": [f"{math.expm1(v):03.0f}%" for v in frame.lncoins],  # text is a category, and so is True or False
    "individual": frame.idp == 1,
    "incentive": frame.lpi,  # floats are real
    "limit": frame.fmde,
    "limitation": frame.physlm > 0.5,
    "diseases": frame.disea,
}
table = Table.from_data(rows)
x, held, likelihood = table.encode(rows), count // 10, TableLikelihood(table.columns)
model = CVAE(
    TableEncoder(table.columns, (128, 128, 128), 8, condition_dim=2),
    MLPDecoder(8, (128, 128, 128), (likelihood.outputs,), condition_dim=2),
    condition=LabelCondition(2),
    prior=ConditionalMixture(8, 2, components=30),
    likelihood=likelihood,
)
fit(model, (x[held:], y[held:]), epochs=epochs)
print("log p(x|y) of rows held out, nats:", log_likelihood(model, (x[:held], y[:held])))
data, drawn = table.decode(x), table.decode(model.draw(y, sample=True))
for value, health in enumerate(["excellent or good", "fair or poor"]):
    print(f"\nhealth is {health}: {int((y == value).sum())} rows of data, and as many drawn")
    for name in data:
        print(f"{name:12} data   {summary(data[name][y == value])}\n{'drawn':>18}  {summary(drawn[name][y == value])}")
