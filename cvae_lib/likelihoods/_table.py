"""The likelihood of a table's rows: Gaussians, negative binomials and categoricals side by side."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, NegativeBinomial, Normal

from cvae_lib.data import Column, TableColumns
from cvae_lib.gaussians import at_least_float32, bounded_log_variance
from cvae_lib.likelihoods._likelihood import Likelihood


class TableRow(Distribution):
    r"""Independent columns, :math:`\log p(x) = \sum_f \log p_f(x_f)`: one row of a table, in nats.

    What lies outside of a column's support has log-probability minus infinity. A row has a mean only where no column is
    a category: :meth:`column` gives the distribution of each by itself.

    Args:
        table: its columns.
        real: of the R real columns, batch shape (..., R), each in its own unit.
        count: of the C counts, batch shape (..., C).
        category: of the codes of each category, batch shape (...).
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, table: TableColumns, real: Normal, count: NegativeBinomial, category: Sequence[Categorical]
    ) -> None:
        self.table, self.real, self.count, self.category = table, real, count, tuple(category)
        super().__init__(real.batch_shape[:-1], torch.Size((len(table.columns),)), validate_args=False)

    def column(self, name: str) -> Distribution:
        """Return the distribution of one column by itself, batch shape (...): of a number in its unit, or of codes.

        Raises:
            ValueError: if there is no such column.
        """
        names = [column.name for column in self.table.columns]
        if name not in names:
            raise ValueError(f"There is no column {name!r}; there are {', '.join(names)}.")
        kind = self.table.columns[names.index(name)].kind
        same = [column.name for column in self.table.columns if column.kind == kind]
        place = same.index(name)
        if kind == "real":
            return Normal(self.real.loc[..., place], self.real.scale[..., place], validate_args=False)
        if kind == "count":
            total, logits = self.count.total_count[..., place], self.count.logits[..., place]
            return NegativeBinomial(total, logits=logits, validate_args=False)
        return self.category[place]

    def log_prob_by_column(self, value: Float[Tensor, "*k f"]) -> Float[Tensor, "*batch f"]:
        """Return the log-probability of each entry, nats: a density in the column's own unit where it is real.

        Raises:
            ValueError: naming column and row, if a value lies outside of the support (on the CPU, and not while
                compiling).
        """
        self.table.check(value)
        fits = self.table.fits(value)
        known = torch.where(fits, value, 0)
        real = self.real.log_prob(known[..., self.table.real])  # (..., R)
        count = self.count.log_prob(_exact(known[..., self.table.count])).to(real.dtype)  # (..., C)
        codes = known[..., self.table.category].unbind(-1)
        category = [p.log_prob(code)[..., None] for p, code in zip(self.category, codes, strict=True)]
        return torch.where(fits, self._in_order(real, count, category), -math.inf)

    def log_prob(self, value: Float[Tensor, "*k f"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of each row, nats: the sum of those of its columns.

        Raises:
            ValueError: as :meth:`log_prob_by_column` does.
        """
        return self.log_prob_by_column(value).sum(-1)

    @property
    def mean(self) -> Float[Tensor, "*batch f"]:
        """The expected values of a table without categories.

        Raises:
            NotImplementedError: if a column is a category.
        """
        if self.category:
            raise NotImplementedError("A category has no mean; draw samples, or ask column(name) one by one.")
        return self._in_order(self.real.mean, self.count.mean.to(self.real.loc.dtype), [])

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of whole rows."""
        shape, dtype = torch.Size(sample_shape), self.real.loc.dtype
        category = [p.sample(shape)[..., None].to(dtype) for p in self.category]
        return self._in_order(self.real.sample(shape), self.count.sample(shape).to(dtype), category)

    def _in_order(self, real: Tensor, count: Tensor, category: Sequence[Tensor]) -> Tensor:
        return torch.cat([real, count, *category], -1)[..., self.table.order]


class TableLikelihood(Likelihood):
    r"""The rows of a table, each column by a likelihood of its own kind.

    A real column with the mean m and standard deviation s of its training rows is Gaussian in its own unit; a count is
    a negative binomial with mean mu and variance :math:`\mu + \mu^2/r`, since what people do and what befalls them
    varies more than a Poisson allows; a category is a categorical:

    .. math:: x \sim \mathcal N(m + s\,a, (s\,\sigma)^2), \qquad x \sim \mathrm{NB}(\mu = \mu_0 e^b,\ r), \qquad
              x \sim \mathrm{softmax}(l)

    with a, b and l from the decoder, :math:`\mu_0 = e^m - 1` for the mean m of log(1 + n), and the logarithms of
    :math:`\sigma^2`, :math:`e^b` and r bounded smoothly to (-10, 10). The nats of a real column are those of a density
    in its own unit, :math:`\log \mathcal N((x - m)/s; a, \sigma^2) - \log s`: in kilos instead of pounds each row gains
    log 2.2046 of them, and the constants m and s, which a checkpoint carries, move nothing. A real column that repeats
    a value often, as incomes repeat 0, has no density there, and its nats then measure the bound on sigma.
    Sources: Nazabal et al. 2020, arXiv:1807.03653, for such tables; Lawless 1987 for the negative binomial.

    Args:
        columns: those of :class:`cvae_lib.data.Table`, in the order of x.
        scale: ``row``, where sigma and r come from the decoder, or ``column``, where each is one learned number.

    Attributes:
        outputs: how many numbers the decoder has to give for each row: ``MLPDecoder(..., (likelihood.outputs,))``.

    Raises:
        ValueError: if ``scale`` is unknown, there is no column, or two have one name.
    """

    def __init__(self, columns: Sequence[Column], scale: Literal["row", "column"] = "row") -> None:
        super().__init__()
        if scale not in ("row", "column"):
            raise ValueError(f"scale is 'row' or 'column', not {scale!r}.")
        self.table = TableColumns(columns)
        self.numbers = len(self.table.real) + len(self.table.count)
        self.raw = nn.Parameter(torch.zeros(self.numbers)) if scale == "column" else None
        self.outputs = self.numbers * (2 if self.raw is None else 1) + sum(self.table.sizes)
        self.channels_per_pixel = math.ceil(self.outputs / len(self.table.columns))

    def forward(self, output: Float[Tensor, "*batch o"]) -> TableRow:
        """Return p(x|z,y) from a and b, then, for ``scale="row"``, sigma and r before their bounds, then l.

        Raises:
            ValueError: if the decoder gives another number of outputs.
        """
        if output.shape[-1] != self.outputs:
            raise ValueError(
                f"This table needs {self.outputs} numbers for each row, and the decoder gives {output.shape[-1]}; "
                "build it with event_shape=(likelihood.outputs,)."
            )
        table, split = self.table, len(self.table.real)
        raw_scales = [] if self.raw is not None else [self.numbers]
        places, *rest = at_least_float32(output).split([self.numbers, *raw_scales, *table.sizes], -1)
        scales = bounded_log_variance(rest.pop(0) if self.raw is None else self.raw)
        mean, std = table.mean[table.real], table.std[table.real]
        loc = mean + std * places[..., :split]  # (..., R)
        real = Normal(loc, (std * torch.exp(0.5 * scales[..., :split])).expand_as(loc), validate_args=False)
        start = torch.expm1(table.mean[table.count]).log()
        log_mean = _exact(start + bounded_log_variance(places[..., split:]))  # (..., C)
        log_total = _exact(scales[..., split:])
        count = NegativeBinomial(log_total.exp(), logits=log_mean - log_total, validate_args=False)
        return TableRow(table, real, count, [Categorical(logits=logits, validate_args=False) for logits in rest])

    def fits(self, x: Float[Tensor, "b f"]) -> Bool[Tensor, " b"]:
        """Return which rows hold what their columns say."""
        return self.table.fits(x).all(-1)

    def describe_support(self) -> str:
        """Say in words what :meth:`fits` asks of x."""
        return "finite, with whole counts of at least 0 and known categories"


def _exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return values in float64, where the device has it: differences of log-gammas cost float32 most of its digits."""
    return values if values.device.type == "mps" else values.double()
