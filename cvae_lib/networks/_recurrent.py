"""A recurrent encoder and decoder for sequences of tokens, such as sentences.

A sequence is a row of whole numbers, tokens 1 to V - 1, of which one is the end token; it reaches as far as its first
end token, and nothing behind that is ever read. Number 0 is padding, and no token.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cvae_lib.conditions import Representation, as_vector
from cvae_lib.environment import is_cheap_to_inspect
from cvae_lib.gaussians import bounded_log_variance
from cvae_lib.networks._blocks import check_latents

PADDING = 0


class Recurrence(NamedTuple):
    """What a recurrent decoder returns: all that fixes a distribution over sequences.

    Attributes:
        state: (B, H), before the first token.
        context: (B, F), read again with every token; F may be 0.
        network: a module ``(tokens, state, context) -> (logits, state)``. The tokens are packed, as torch's
            ``pack_padded_sequence`` gives them, 0 for the start; the logits (T, V - 1) of tokens 1 to V - 1 behind each
            of the T tokens are packed in the same order, and the state (B, H) is the one behind each sequence's last.
    """

    state: Float[Tensor, "*b h"]
    context: Float[Tensor, "*b f"]
    network: nn.Module


def packed(x: Int64[Tensor, "b l *parts"], lengths: Int64[Tensor, " b"]) -> PackedSequence:
    """Return the rows step after step without what stands behind their ends: data (T, *parts) for T tokens in all."""
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


def packed_like(data: Shaped[Tensor, "t *parts"], other: PackedSequence) -> PackedSequence:
    """Return data that stand in the order of another packed sequence."""
    return PackedSequence(data, other.batch_sizes, other.sorted_indices, other.unsorted_indices)


def lengths_of(x: Int64[Tensor, "*b l"], end: int) -> Int64[Tensor, "*b"]:
    """Return how many tokens each sequence has, its end token counted; all L where there is none."""
    return ((x == end).cumsum(-1) == 0).sum(-1).add(1).clamp_max(x.shape[-1])


def check_tokens(tokens: Int64[Tensor, " t"], vocabulary: int, end: int) -> None:
    """Raise ValueError if one of the numbers is no token, where looking costs nothing."""
    wrong = (tokens <= PADDING) | (tokens >= vocabulary)
    if is_cheap_to_inspect(tokens) and wrong.any():
        raise ValueError(
            f"Tokens lie in 1..{vocabulary - 1} as far as the end token {end}, and one is {int(tokens[wrong][0])}."
        )


def _rows(c: Representation | None, batch: int, width: int) -> Float[Tensor, "b c"]:
    """Return c as one vector for each example, without entries for a network that reads none."""
    rows = torch.zeros(batch, 0) if c is None else as_vector(c)
    if width and rows.shape != (batch, width):
        raise ValueError(f"This network reads a condition of shape ({batch}, {width}), not {tuple(rows.shape)}.")
    return rows[:, :width]


class TokenGRU(nn.Module):
    """A GRU over the vectors of tokens, the context of its sequence beside each."""

    def __init__(self, vocabulary: int, embedding: int, context_dim: int, hidden: int, word_dropout: float = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding + context_dim, hidden)
        self.word_dropout = word_dropout

    def forward(
        self, tokens: PackedSequence, state: Float[Tensor, "b h"], context: Float[Tensor, "b f"]
    ) -> tuple[PackedSequence, Float[Tensor, "b h"]]:
        """Return the states behind all tokens, (T, H), packed as they are, and those behind the last ones."""
        words = self.embed(tokens.data)  # (T, E)
        if self.training and self.word_dropout:
            # The start says nothing that could be hidden.
            kept = (torch.rand_like(words[:, 0]) >= self.word_dropout) | (tokens.data == PADDING)
            words = words * kept[:, None]
        if context.shape[1]:
            rows = context if tokens.sorted_indices is None else context[tokens.sorted_indices]
            beside = torch.cat([rows[:count] for count in tokens.batch_sizes.tolist()])  # (T, F)
            words = torch.cat([words, beside.to(words.dtype)], dim=1)
        states, last = self.gru(packed_like(words, tokens), state.to(words.dtype)[None])
        return states, last[0]


class NextToken(nn.Module):
    """The network of :class:`GRUDecoder`: from the tokens so far to the logits of the next, see :class:`Recurrence`."""

    def __init__(self, gru: TokenGRU, hidden: int, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.gru, self.dropout, self.readout = gru, nn.Dropout(dropout), nn.Linear(hidden, vocabulary - 1)

    def forward(
        self, tokens: PackedSequence, state: Float[Tensor, "b h"], context: Float[Tensor, "b f"]
    ) -> tuple[PackedSequence, Float[Tensor, "b h"]]:
        """Return the logits of what follows each token, (T, V - 1), and the last states."""
        states, last = self.gru(tokens, state, context)
        return packed_like(self.readout(self.dropout(states.data)), tokens), last


class GRUEncoder(nn.Module):
    r"""Read a sequence token by token, c at every step, and return the parameters of q(z|x,y).

    .. math:: h_t = \mathrm{GRU}(h_{t-1}, [E_{x_t}, c]), \quad h_0 = 0, \qquad (\mu, v) = W h_T + b

    with T the end token. Sources: Cho et al. 2014, arXiv:1406.1078; Bowman et al. 2016, arXiv:1511.06349.

    Args:
        vocabulary: V, numbers there are, padding (0) and end token among them.
        hidden: H, width of the state.
        latent_dim: D.
        embedding: E, entries of a token's vector.
        condition_dim: C, width of c, 0 for none; several vectors (``Tokens``) enter by their mean, an image laid flat.
        end: the end token.
    """

    def __init__(
        self,
        vocabulary: int,
        hidden: int,
        latent_dim: int,
        *,
        embedding: int = 96,
        condition_dim: int = 0,
        end: int = 1,
    ) -> None:
        super().__init__()
        self.vocabulary, self.hidden, self.latent_dim, self.end = vocabulary, hidden, latent_dim, end
        self.condition_dim, self.reads_condition = condition_dim, condition_dim > 0
        self.gru = TokenGRU(vocabulary, embedding, condition_dim, hidden)
        self.head = nn.Linear(hidden, 2 * latent_dim)

    def forward(
        self, x: Int64[Tensor, "b l"], c: Representation | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: if x is not int64 (B, L) or holds a number that is no token, or c has another width; on a GPU,
                which would have to wait for the answer, such a number is read as the nearest token.
        """
        if x.dtype != torch.int64 or x.ndim != 2 or not x.numel():
            raise ValueError(f"The encoder expects int64 tokens of shape (B, L), not {x.dtype} of {tuple(x.shape)}.")
        tokens = packed(x, lengths_of(x, self.end))
        check_tokens(tokens.data, self.vocabulary, self.end)
        start = self.head.weight.new_zeros(len(x), self.hidden)
        known = packed_like(tokens.data.clamp(PADDING, self.vocabulary - 1), tokens)
        _, last = self.gru(known, start, _rows(c, len(x), self.condition_dim))
        mean, raw = self.head(last).chunk(2, dim=1)
        return mean, bounded_log_variance(raw)


class GRUDecoder(nn.Module):
    r"""Set up the network that writes a sequence token by token, from z and c.

    .. math:: h_t = \mathrm{GRU}(h_{t-1}, [E_{x_{t-1}}, z, c]), \quad h_0 = \tanh(W_0 z + b_0), \qquad
              p(x_t | x_{<t}, z, y) = \mathrm{softmax}(W h_t + b)

    with z in the bracket where ``z_at`` says so. :class:`cvae_lib.likelihoods.TokenLikelihood` takes what it returns.

    A language model p(x|y), the rival without z, is the same decoder with ``latent_dim=0`` and :math:`h_0 = 0`. Its
    ELBO is log p(x|y) itself, and training and evaluation take it as any other model::

        CVAE(NoEncoder(), GRUDecoder(0, 192, 1000), likelihood=TokenLikelihood(1000, 24))

    Sources: Cho et al. 2014, arXiv:1406.1078; Bowman et al. 2016, arXiv:1511.06349, also for the word dropout.

    Args:
        latent_dim: D; 0 for a language model.
        hidden: H, width of the state.
        vocabulary: V, numbers there are, padding (0) and end token among them.
        embedding: E, entries of a token's vector.
        condition_dim: C, width of c, which is read at every step; 0 for none, and otherwise as for the encoder.
        z_at: ``start``, in the first state alone, or ``every``, there and at every step.
        word_dropout: probability of hiding a token from the network (a zero vector in its place) while training.
        dropout: probability of dropping an entry of a state on its way to the logits while training.

    Raises:
        ValueError: if ``z_at`` is unknown, or a probability is none.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: int,
        vocabulary: int,
        *,
        embedding: int = 96,
        condition_dim: int = 0,
        z_at: Literal["start", "every"] = "start",
        word_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if z_at not in ("start", "every") or not 0 <= word_dropout <= 1:
            raise ValueError(
                f"z_at is 'start' or 'every' and word_dropout a probability, not {z_at!r} and {word_dropout}."
            )
        self.latent_dim, self.hidden, self.z_at = latent_dim, hidden, z_at
        self.condition_dim, self.reads_condition = condition_dim, condition_dim > 0
        self.start = nn.Linear(latent_dim, hidden) if latent_dim else None
        context_dim = condition_dim + (latent_dim if z_at == "every" else 0)
        gru = TokenGRU(vocabulary, embedding, context_dim, hidden, word_dropout)
        self.network = NextToken(gru, hidden, vocabulary, dropout)

    def forward(self, z: Float[Tensor, "b d"], c: Representation | None) -> Recurrence:
        """Return the first states, the context of every step and the network.

        Raises:
            ValueError: if z or c has another width than the decoder was made for.
        """
        check_latents(z, self.latent_dim)
        state = z.new_zeros(len(z), self.hidden) if self.start is None else torch.tanh(self.start(z))
        context = _rows(c, len(z), self.condition_dim).to(z)
        if self.z_at == "every":
            context = torch.cat([z, context], dim=1)
        return Recurrence(state, context, self.network)


class NoEncoder(nn.Module):
    """The encoder of a model without z, D = 0: nothing is encoded, and the ELBO is log p(x|y) itself."""

    latent_dim = 0
    reads_condition = False

    def forward(self, x: Shaped[Tensor, "b *event"], c: object) -> tuple[Float[Tensor, "b 0"], Float[Tensor, "b 0"]]:
        """Return an empty mean and log-variance for each example."""
        empty = torch.zeros(len(x), 0, device=x.device)
        return empty, empty
