"""A likelihood over sequences of tokens, written one after the other up to an end token."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from cvae_lib.environment import is_cheap_to_inspect
from cvae_lib.gaussians import at_least_float32
from cvae_lib.likelihoods._likelihood import Likelihood
from cvae_lib.networks._recurrent import PADDING, Recurrence, check_tokens, lengths_of, packed, packed_like


def _as_rows(values: Shaped[Tensor, "*some f"], shape: torch.Size) -> Shaped[Tensor, "n f"]:
    return values.expand(*shape, values.shape[-1]).reshape(shape.numel(), values.shape[-1])


class TokenSequence(Distribution):
    r"""A distribution over sequences that end, :math:`p(x) = \prod_{t=1}^{T} p(x_t | x_{<t})` with T the end token.

    Padding has no probability at any step, and what stands behind the end token is no part of x: over all sequences of
    all lengths the probabilities sum to one, if all end. Arguments as for :class:`TokenLikelihood`.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, recurrence: Recurrence, vocabulary: int, length: int, end: int) -> None:
        self.recurrence, self.vocabulary, self.end = recurrence, vocabulary, end
        super().__init__(recurrence.state.shape[:-1], torch.Size([length]), validate_args=False)

    def log_prob(self, value: Int64[Tensor, "*shape l"]) -> Float[Tensor, "*batch"]:
        """Return log p(x), nats per sequence, the end token counted; the rows may also be longer or shorter than L.

        Raises:
            ValueError: if they are not int64, do not go with the batch, do not end, or hold a number that is no token.
                A GPU would have to wait for the last two: there such a number has a log-probability of -inf, padding
                too.
        """
        return self.token_log_probs(value).sum(-1)

    def token_log_probs(self, value: Int64[Tensor, "*shape l"]) -> Float[Tensor, "*batch l"]:
        """Return log p(x_t | x_<t) of every token, nats, and 0 behind the end token; errors as in :meth:`log_prob`."""
        shape = self._checked_shape(value)
        x, state, context = (_as_rows(part, shape) for part in (value, *self.recurrence[:2]))  # (N, L), (N, H), (N, F)
        # Beside each token the one before it, which the network has just read: the start, x_1, x_2, ...
        pairs = packed(torch.stack([F.pad(x, (1, -1), value=PADDING), x], -1), lengths_of(x, self.end))
        before, token = pairs.data.unbind(-1)  # (T,) each, for T tokens in all
        check_tokens(token, self.vocabulary, self.end)
        is_token = (token > PADDING) & (token < self.vocabulary)
        scores, _ = self._scores(packed_like(before.clamp(PADDING, self.vocabulary - 1), pairs), state, context)
        nats = -F.cross_entropy(scores, torch.where(is_token, token - 1, 0), reduction="none")
        nats = torch.where(is_token, nats, -math.inf)
        rows, _ = pad_packed_sequence(packed_like(nats, pairs), batch_first=True, total_length=x.shape[-1])
        return rows.reshape(*shape, -1)

    def _checked_shape(self, x: Tensor) -> torch.Size:
        if x.dtype != torch.int64 or x.ndim < 1 or not x.numel():
            raise ValueError(f"Sequences must be int64 tokens of shape (B, L), not {x.dtype} of {tuple(x.shape)}.")
        if is_cheap_to_inspect(x) and not (x == self.end).any(-1).all():
            raise ValueError(f"A sequence has no end token {self.end}; even one without words needs it.")
        try:
            shape: torch.Size = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"Sequences of shape {tuple(x.shape)} do not go with a batch of {tuple(self.batch_shape)}."
            ) from None
        return shape

    def _scores(self, tokens: PackedSequence, state: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of tokens 1 to V - 1 behind each token, (T, V - 1), and the states behind the last."""
        logits, state = self.recurrence.network(tokens, state, context)
        if (size := logits.data.shape[1] + 1) != self.vocabulary:
            raise ValueError(f"The decoder has a vocabulary of {size}, the likelihood one of {self.vocabulary}.")
        return at_least_float32(logits.data), state

    @torch.no_grad()
    def sample(
        self,
        sample_shape: Any = (),
        *,
        temperature: float = 1.0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
        max_length: int | None = None,
    ) -> Int64[Tensor, "*batch l"]:
        r"""Return draws, token by token up to the end token, padded with 0: shape (..., L), or (..., max_length).

        A draw that has not ended by then is cut off, and has no end token.

        Args:
            sample_shape: axes in front of the batch shape.
            temperature: tau in :math:`p_\tau(x_t | x_{<t}) \propto p(x_t | x_{<t})^{1/\tau}`; below 1 gives likelier,
                less varied sequences.
            greedy: take the likeliest token at every step instead of drawing one.
            generator: source of randomness; the global one if not given.
            max_length: tokens of a draw, at most; L if not given.

        Raises:
            ValueError: if ``temperature`` is not above 0, or ``max_length`` below 1.
        """
        most = self.event_shape[0] if max_length is None else max_length
        if not 0 < temperature < math.inf or most < 1:
            raise ValueError(
                f"A draw needs a temperature above 0 and a length of at least 1, not {temperature} and {most}; "
                "greedy=True takes the likeliest tokens."
            )
        shape = torch.Size(sample_shape) + self.batch_shape
        state, context = (_as_rows(part, shape) for part in self.recurrence[:2])  # (N, H), (N, F)
        x = torch.full((len(state), most), PADDING, device=state.device)
        token, ended = x.new_full((len(state),), PADDING), x.new_zeros(len(state), dtype=torch.bool)
        place = state.device if generator is None else generator.device
        for t in range(most):
            scores, state = self._scores(PackedSequence(token, torch.tensor([len(token)])), state, context)
            if greedy:
                token = 1 + scores.argmax(1)
            else:
                p = (scores / temperature).softmax(1).to(place)
                token = 1 + torch.multinomial(p, 1, generator=generator)[:, 0].to(x.device)
            x[:, t] = token.masked_fill(ended, PADDING)
            ended |= token == self.end
            if ended.all():
                break
        return x.reshape(*shape, most)


class TokenLikelihood(Likelihood):
    """Sequences of tokens, int64 (B, L), from a recurrent decoder, see :class:`TokenSequence`.

    Source: Bowman et al. 2016, arXiv:1511.06349.

    Args:
        vocabulary: V; tokens are 1 to V - 1, and 0 is padding.
        length: L, tokens a sequence has at most, its end token counted.
        end: the token that ends every sequence; what stands behind it is not read.

    Raises:
        ValueError: if the end token is no token, or L is below 1.
    """

    def __init__(self, vocabulary: int, length: int, end: int = 1) -> None:
        super().__init__()
        if not PADDING < end < vocabulary or length < 1:
            raise ValueError(
                f"The end token lies in 1..{vocabulary - 1} and the length is at least 1, not {end} and {length}."
            )
        self.vocabulary, self.length, self.end = vocabulary, length, end
        self.channels_per_pixel = vocabulary

    def forward(self, output: Recurrence) -> TokenSequence:
        """Return p(x|z,y): event shape (L,).

        Raises:
            ValueError: if the decoder gives something else.
        """
        if not isinstance(output, Recurrence):
            raise ValueError(f"Tokens need a decoder that returns a Recurrence, not {type(output).__name__}.")
        return TokenSequence(output, self.vocabulary, self.length, self.end)

    def prepare(self, x: Shaped[Tensor, "b n"], generator: torch.Generator | None = None) -> Int64[Tensor, "b l"]:
        """Return tokens, stored as whole numbers of any size, as int64, padded to L columns.

        Raises:
            ValueError: if x holds no whole numbers, or more than L columns.
        """
        is_whole = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
        if not is_whole or x.ndim != 2 or x.shape[1] > self.length:
            raise ValueError(
                f"Sequences are rows of at most {self.length} whole numbers, not {x.dtype} of shape {tuple(x.shape)}."
            )
        return F.pad(x.long(), (0, self.length - x.shape[1]), value=PADDING)

    def fits(self, x: Int64[Tensor, "b l"]) -> Bool[Tensor, " b"]:
        """Return which sequences end, and hold nothing but tokens until then."""
        behind = (x == self.end).cumsum(-1) > 0
        return (behind | (x > PADDING) & (x < self.vocabulary)).all(-1) & behind[..., -1]

    def describe_support(self) -> str:
        """Say in words what :meth:`fits` asks of x."""
        return f"a sequence of tokens 1..{self.vocabulary - 1} that ends with {self.end}"
