"""A laboratory: the linear-Gaussian CVAE, of which everything is known in closed form.

    p(z|y)   = N(z; A y + a, diag s²)
    p(x|z,y) = N(x; W z + U y + b, diag r²)

It has the three distributions of :class:`cvae_lib.model.CVAE`, so objectives and estimators run on it unchanged, and
their answers can be compared with the truth. x has shape (B, X), y real numbers of shape (B, Y), all in float64.
Its special cases are probabilistic PCA and factor analysis. Sources: Tipping and Bishop 1999; Lucas et al. 2019,
arXiv:1911.02469.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from cvae_lib.gaussians import diagonal_gaussian

Encoder = Callable[[Tensor, Tensor | None], Distribution]


def full_gaussian(q: Distribution) -> MultivariateNormal:
    """Return a Gaussian as one with a full covariance matrix, so that any two can be compared.

    Raises:
        TypeError: if it is no Gaussian.
    """
    if isinstance(q, MultivariateNormal):
        return q
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1:
        return MultivariateNormal(q.base_dist.loc, scale_tril=torch.diag_embed(q.base_dist.scale), validate_args=False)
    raise TypeError(f"The closed forms here are for Gaussians over one axis, not for {type(q).__name__}.")


def water_filling(
    variances: Float[Tensor, " x"], level: float | Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Return rate (nats) and squared error of a Gaussian source on its rate-distortion curve.

    .. math:: R = \sum_i \max\big(0,\ \tfrac12 \log \tfrac{\lambda_i}{\theta}\big), \qquad
              \delta = E|x - \hat x|^2 = \sum_i \min(\lambda_i,\ \theta)

    No code of a Gaussian x with covariance of eigenvalues lambda has a smaller error at that rate. The linear VAE
    with decoder noise s and weight beta reaches it, with the water at :math:`\theta = \beta s^2`: directions that
    vary less than the water level are left out.

    Args:
        variances: lambda, the eigenvalues, all above 0.
        level: theta, above 0.

    Raises:
        ValueError: if a variance or the level is not above 0.

    Source: Cover and Thomas 2006, theorem 10.3.3 (reverse water-filling).
    """
    level = torch.as_tensor(level, dtype=variances.dtype)
    if not (bool((variances > 0).all()) and bool(level > 0)):
        raise ValueError("Variances and water level must be above 0.")
    return 0.5 * (variances / level).log().clamp(min=0).sum(), variances.clamp(max=level).sum()


class LinearEncoder(nn.Module):
    r"""A factorised guess at the posterior, :math:`q(z|x,y) = \mathcal N(E[x, y] + e, \mathrm{diag}\,v)`.

    The true posterior has such a mean but in general a covariance that is not diagonal, so that a gap stays.
    """

    def __init__(self, x_dim: int, y_dim: int, z_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(x_dim + y_dim, z_dim, dtype=torch.float64)
        self.log_variance = nn.Parameter(torch.zeros(z_dim, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None) -> Independent:
        """Return q(z|x,y): event shape (D,), batch shape (B,)."""
        return diagonal_gaussian(self.mean(x if y is None else torch.cat([x, y], dim=1)), self.log_variance)


class LinearGaussian(nn.Module):
    r"""The CVAE whose decoder and prior are linear, with :math:`\log p(x|y)` and the posterior in closed form.

    Args:
        x_dim: X, entries of x.
        z_dim: D, entries of z.
        y_dim: Y, entries of y; 0 gives the linear VAE.
        encoder: maps (x, y) to q(z|x,y), such as :class:`LinearEncoder`; the exact posterior if not given.
        shared_noise: one r for all entries of x, as in probabilistic PCA, instead of one for each.

    Raises:
        ValueError: if X or D is below 1, or Y below 0.
    """

    def __init__(
        self, x_dim: int, z_dim: int, y_dim: int = 0, encoder: Encoder | None = None, *, shared_noise: bool = False
    ) -> None:
        super().__init__()
        if x_dim < 1 or z_dim < 1 or y_dim < 0:
            raise ValueError(f"x and z need at least 1 entry and y at least 0, not {x_dim}, {z_dim} and {y_dim}.")

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, dtype=torch.float64))

        self.x_dim, self.z_dim, self.y_dim = x_dim, z_dim, y_dim
        self.weight = normal(x_dim, z_dim)  # W
        self.x_from_y = normal(x_dim, y_dim)  # U
        self.bias = normal(x_dim)  # b
        self.log_noise = nn.Parameter(normal(1 if shared_noise else x_dim).data / 2)  # log r²
        self.z_from_y = normal(z_dim, y_dim)  # A
        self.prior_mean = normal(z_dim)  # a
        self.prior_log_variance = nn.Parameter(normal(z_dim).data / 2)  # log s²
        self.encoder = encoder

    @property
    def device(self) -> torch.device:
        """The device the parameters live on."""
        return self.weight.device

    @property
    def is_conditional(self) -> bool:
        """Whether the model takes a y."""
        return self.y_dim > 0

    def _shift(self, matrix: Tensor, y: Float[Tensor, "b y"] | None) -> Tensor:
        """Return what y adds, shape (B, rows), or a zero for a model without y."""
        if not self.is_conditional:
            return matrix.new_zeros(())
        if y is None or y.ndim != 2 or y.shape[1] != self.y_dim:
            given = "nothing" if y is None else f"shape {tuple(y.shape)}"
            raise ValueError(
                f"This model is conditional: pass y, real numbers of shape (B, {self.y_dim}), not {given}."
            )
        return y @ matrix.T

    def prior(self, y: Float[Tensor, "b y"] | None = None, batch: int | None = None) -> Independent:
        """Return p(z|y): event shape (D,), batch shape (B,), where B is len(y), or ``batch`` without y.

        Raises:
            ValueError: if neither y nor ``batch`` says how many, or y has another shape than (B, Y).
        """
        if batch is None:
            if y is None:
                raise ValueError("Say how many: pass y, or batch=... for a model without a condition.")
            batch = len(y)
        mean = (self.prior_mean + self._shift(self.z_from_y, y)).expand(batch, -1)
        return diagonal_gaussian(mean, self.prior_log_variance)

    def likelihood(self, z: Float[Tensor, "*k b d"], y: Float[Tensor, "b y"] | None = None) -> Independent:
        """Return p(x|z,y): event shape (X,), batch shape that of z without D.

        Raises:
            ValueError: if y has another shape than (B, Y).
        """
        mean = z @ self.weight.T + self._shift(self.x_from_y, y) + self.bias
        return diagonal_gaussian(mean, self.log_noise)

    def posterior(self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None = None) -> Distribution:
        """Return q(z|x,y), the encoder's, or p(z|x,y) itself without an encoder: event shape (D,), batch shape (B,)."""
        if self.encoder is None:
            return self.exact_posterior(x, y)
        return self.encoder(x, y)

    def exact_posterior(self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None = None) -> MultivariateNormal:
        r"""Return :math:`p(z|x,y) = \mathcal N(m, \Lambda^{-1})`: event shape (D,), batch shape (B,).

        .. math:: \Lambda = W^T R^{-1} W + S^{-1}, \quad
                  m = \mu_p + \Lambda^{-1} W^T R^{-1} (x - W \mu_p - U y - b)

        with :math:`\mu_p = A y + a`, R = diag r² and S = diag s². Source: Bishop 2006, section 2.3.3.
        """
        prior_mean = self.prior(y, batch=len(x)).mean  # (B, D)
        weighted = self.weight.T * torch.exp(-self.log_noise)  # (D, X)
        precision = weighted @ self.weight + torch.diag(torch.exp(-self.prior_log_variance))  # (D, D)
        surprise = (x - self.likelihood(prior_mean, y).mean) @ weighted.T  # (B, D)
        mean = prior_mean + torch.linalg.solve(precision, surprise.T).T
        return MultivariateNormal(mean, precision_matrix=precision.expand(len(x), -1, -1), validate_args=False)

    def log_evidence(self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None = None) -> Float[Tensor, " b"]:
        r"""Return :math:`\log p(x|y) = \log \mathcal N(x; W \mu_p + U y + b,\ W S W^T + R)`, nats per example."""
        mean = self.likelihood(self.prior(y, batch=len(x)).mean, y).mean  # (B, X)
        spread = self.weight * torch.exp(self.prior_log_variance) @ self.weight.T  # (X, X)
        noise = torch.diag(torch.exp(self.log_noise).expand(self.x_dim))
        evidence = MultivariateNormal(mean, spread + noise, validate_args=False)
        value: Tensor = evidence.log_prob(x)
        return value

    def elbo(
        self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None = None, q: Distribution | None = None
    ) -> Float[Tensor, " b"]:
        r"""Return the ELBO of a Gaussian q in closed form, nats per example; of the model's own q if none is given.

        .. math:: E_q \log p(x|z,y) = \log p(x|\mu_q, y) - \tfrac12 \mathrm{tr}(R^{-1} W \Sigma_q W^T)

        Raises:
            TypeError: if q is no Gaussian.
        """
        q = full_gaussian(self.posterior(x, y) if q is None else q)
        smeared = (self.weight @ q.scale_tril).square().sum(-1)  # (B, X), the diagonal of W Sigma W^T
        at_mean = self.likelihood(q.mean, y).log_prob(x)
        expected = at_mean - 0.5 * (smeared * torch.exp(-self.log_noise)).sum(-1)
        value: Tensor = expected - kl_divergence(q, full_gaussian(self.prior(y, batch=len(x))))
        return value

    def gap(
        self, x: Float[Tensor, "b x"], y: Float[Tensor, "b y"] | None = None, q: Distribution | None = None
    ) -> Float[Tensor, " b"]:
        r"""Return :math:`KL(q \,\|\, p(z|x,y)) = \log p(x|y) - ELBO`, nats per example; of the model's own q if none.

        Raises:
            TypeError: if q is no Gaussian.
        """
        q = full_gaussian(self.posterior(x, y) if q is None else q)
        value: Tensor = kl_divergence(q, self.exact_posterior(x, y))
        return value

    @torch.no_grad()
    def sample(
        self, y: Float[Tensor, "b y"] | None = None, *, count: int | None = None
    ) -> tuple[Float[Tensor, "b x"], Float[Tensor, "b d"]]:
        """Draw z from p(z|y), then x from p(x|z,y); return (x, z).

        Args:
            y: one condition per draw; for a model without one pass ``count``.

        Raises:
            ValueError: if neither y nor ``count`` says how many, or y has another shape than (B, Y).
        """
        z = self.prior(y, batch=count).sample()
        return self.likelihood(z, y).sample(), z
