"""Captions: a small vocabulary of one's own, and the condition that reads its words."""

import difflib
import re
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from cvae_lib.conditions._condition import Condition, Kind, Tokens, described, given
from cvae_lib.environment import is_cheap_to_inspect

PADDING = 0
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def split(text: str) -> list[str]:
    """Return the words of a text in lower case; punctuation is left out."""
    return WORD.findall(text.casefold())


class Vocabulary:
    """The words a model knows, numbered from 1 in the given order; 0 is padding.

    A word outside the vocabulary is an error, not a placeholder: a request that cannot be understood should not be
    half obeyed.

    Args:
        words: lower-case words, each once.
        length: L, how many words a caption can have.

    Raises:
        ValueError: if there is no word, one stands twice or is not one lower-case word, or ``length`` is below 1.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        if isinstance(words, str):
            raise ValueError(f"A vocabulary is a list of words, not a single string: {words!r}.")
        self.words, self.length = tuple(words), length
        self.ids = {word: number for number, word in enumerate(self.words, 1)}
        if not self.words or length < 1:
            raise ValueError("A vocabulary needs at least one word, and captions a length of at least 1.")
        if len(self.ids) < len(self.words):
            raise ValueError("Every word of a vocabulary stands in it once; remove the doubles.")
        if wrong := [word for word in self.words if split(word) != [word]]:
            raise ValueError(f"A vocabulary is made of single lower-case words, and {wrong[0]!r} is not one.")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def from_texts(cls, texts: Sequence[str], length: int | None = None) -> "Vocabulary":
        """Make a vocabulary of all words in the texts, in alphabetical order, for captions as long as the longest.

        Args:
            texts: what to read.
            length: L, if not that of the longest.

        Raises:
            ValueError: if the texts hold no word, or ``length`` is below 1.
        """
        parts = [split(text) for text in texts]
        longest = max((len(part) for part in parts), default=0)
        return cls(sorted({word for part in parts for word in part}), longest if length is None else length)

    def encode(self, texts: Sequence[str]) -> Int64[Tensor, "b l"]:
        """Return the numbers of each text's words, padded with 0 at the end to shape (B, L).

        A text without a word is all padding: a missing caption.

        Raises:
            ValueError: if a word is unknown, a text too long, or ``texts`` is a single string.
        """
        if isinstance(texts, str):
            raise ValueError("Pass a list of captions, one per example, not a single string.")
        ids = torch.full((len(texts), self.length), PADDING, device="cpu")
        for row, text in enumerate(texts):
            words = split(text)
            if len(words) > self.length:
                raise ValueError(f"A caption has at most {self.length} words, and {text!r} has {len(words)}.")
            for column, word in enumerate(words):
                ids[row, column] = self._number(word)
        return ids

    def _number(self, word: str) -> int:
        if word in self.ids:
            return self.ids[word]
        near = difflib.get_close_matches(word, self.words, n=1)
        some = ", ".join(self.words[:12]) + (", ..." if len(self) > 12 else "")
        raise ValueError(
            f"The word {word!r} is not in the vocabulary; "
            + (f"did you mean {near[0]!r}?" if near else f"it knows {some}.")
        )

    def decode(self, ids: Int64[Tensor, "b l"]) -> list[str]:
        """Return the texts of numbered words, padding left out.

        Raises:
            ValueError: if a number stands for no word.
        """
        if ids.numel() and not (int(ids.min()) >= PADDING and int(ids.max()) <= len(self)):
            raise ValueError(f"Word numbers lie in 1..{len(self)}, or are 0 for padding, and some of these do not.")
        return [" ".join(self.words[number - 1] for number in row if number != PADDING) for row in ids.tolist()]


class CaptionCondition(Condition):
    r"""A caption as one learned vector per word, :math:`c_l = E_{w_l} + P_l` at position l; all padding if missing.

    y is either a list of B texts or the numbers from :meth:`Vocabulary.encode`, int64 of shape (B, L) or fewer columns,
    0 for padding. Source: embeddings and learned positions as in Gehring et al. 2017, arXiv:1705.03122.

    Args:
        vocabulary: the words it knows.
        width: C, entries of a word's vector.

    Raises:
        ValueError: if C is below 1.
    """

    kind: Kind = "tokens"

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"A word's vector needs at least 1 entry, not {width}.")
        self.vocabulary, self.dim = vocabulary, width
        self.embed = nn.Embedding(len(vocabulary) + 1, width, padding_idx=PADDING)
        self.position = nn.Parameter(0.1 * torch.randn(vocabulary.length, width))

    def ids(self, y: Sequence[str] | Int64[Tensor, "b l"] | None) -> Int64[Tensor, "b l"]:
        """Return y as numbered words on this module's device.

        Raises:
            ValueError: if y is missing, of another dtype or shape, or holds unknown words; on a GPU, which would have
                to wait for the answer, a number that stands for no word counts as padding.
        """
        size, length = len(self.vocabulary), self.vocabulary.length
        wanted = f"a list of captions, or int64 word numbers of shape (B, {length})"
        y = given(y, wanted)
        if isinstance(y, Sequence) and (isinstance(y, str) or all(isinstance(text, str) for text in y)):
            return self.vocabulary.encode(y).to(self.position.device)
        if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 2 or y.shape[1] > length:
            raise ValueError(f"Captions must be {wanted} or fewer columns, not {described(y)}.")
        if is_cheap_to_inspect(y) and not (int(y.min()) >= PADDING and int(y.max()) <= size):
            raise ValueError(
                f"Word numbers must lie in 1..{size} (or 0 for padding), but run from {int(y.min())} to {int(y.max())}."
            )
        return y

    def forward(self, y: Sequence[str] | Int64[Tensor, "b l"] | None) -> Tokens:
        """Return the word vectors and the padding mask: (B, L, C) and (B, L).

        Raises:
            ValueError: see :meth:`ids`.
        """
        ids = self.ids(y)
        mask = (ids > PADDING) & (ids <= len(self.vocabulary))
        # Where nobody asks (a GPU would have to wait, a graph would be split), a number from outside becomes padding.
        values = self.embed(ids * mask) + self.position[: ids.shape[1]]  # (B, L, C)
        return Tokens(values * mask[..., None], mask)

    def check(self, y: Sequence[str] | Int64[Tensor, "b l"] | None) -> None:
        """Raise ValueError as ``forward`` does."""
        self.ids(y)

    def mask_out(self, y: Sequence[str] | Int64[Tensor, "b l"], where: Bool[Tensor, " b"]) -> Int64[Tensor, "b l"]:
        """Return the numbered words with the examples at ``where`` all padding."""
        ids = self.ids(y)
        return ids.masked_fill(where.to(ids.device)[:, None], PADDING)

    def drop(
        self, y: Sequence[str] | Int64[Tensor, "b l"], probability: float, generator: torch.Generator | None = None
    ) -> Int64[Tensor, "b l"]:
        """Return the numbered words with each caption missing with the given probability."""
        ids: Tensor = super().drop(self.ids(y), probability, generator)
        return ids
