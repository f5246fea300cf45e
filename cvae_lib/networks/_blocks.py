"""What the networks share: where the condition enters, and what is said of a wrong input."""

from collections.abc import Sequence

from torch import Tensor

Placement = str | Sequence[int]


def check_whole(least: int = 1, **numbers: int) -> None:
    """Raise ValueError if one of the named numbers is not whole, or below the least."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def check_widths(**widths: Sequence[int]) -> None:
    """Raise ValueError if one of the named sequences is none, or holds anything but whole numbers of at least 1."""
    for name, value in widths.items():
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_sequence or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value):
            raise ValueError(f"{name} must be whole numbers of at least 1, such as (64, 64), not {value!r}.")


def conditioned_blocks(where: Placement, blocks: int) -> set[int]:
    """Return which of the blocks, counted from 0 at the input, the condition enters.

    Args:
        where: ``first``, ``every``, or block numbers.
        blocks: how many there are.

    Raises:
        ValueError: if ``where`` is none of these, or there is no block of that number.
    """
    if where == "every":
        return set(range(blocks))
    if where == "first":
        return {0}
    if isinstance(where, str) or not where or any(isinstance(b, bool) or not isinstance(b, int) for b in where):
        raise ValueError(
            f"The condition can enter at the 'first' block, at 'every' block, or at blocks by number, not {where!r}."
        )
    if min(where) < 0 or max(where) >= blocks:
        raise ValueError(f"This network has blocks 0 to {blocks - 1}, so the condition cannot enter at {tuple(where)}.")
    return set(where)


def check_event(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise ValueError if x holds no floats, or has another shape than the encoder was made for."""
    if not x.is_floating_point():
        raise ValueError(f"The encoder expects floats, not {x.dtype}; model.prepare(x) makes pixels of grey levels.")
    if tuple(x.shape[1:]) != event_shape:
        raise ValueError(
            f"The encoder expects x of shape (B, {', '.join(map(str, event_shape))}), not {tuple(x.shape)}."
        )


def check_latents(z: Tensor, latent_dim: int) -> None:
    """Raise ValueError if the latents have another width than the decoder was made for."""
    if z.ndim != 2 or z.shape[1] != latent_dim:
        raise ValueError(f"The decoder expects latents of {latent_dim} entries, not of shape {tuple(z.shape)}.")
