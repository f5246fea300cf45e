"""The command line: ``python -m cvae_lib draw 7 --count 12 --seed 3 --out sevens.png``."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import torch


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"cvae_lib: {message}", file=sys.stderr)
        sys.exit(2)


def _digit(text: str) -> int:
    if text not in tuple("0123456789"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a digit; ask for one of 0 to 9")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of drawings from 1 to 10000")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed; give a whole number, 0 or more")
    return int(text)


def _out(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".npy"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png (a picture) or .npy (an array)")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog="python -m cvae_lib", description="Draw digits with the bundled conditional VAE.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="draw")
    draw = commands.add_parser("draw", help="draw a digit")
    draw.add_argument("digit", type=_digit, help="0 to 9")
    draw.add_argument("--count", type=_count, default=10, help="how many (default 10)")
    draw.add_argument("--seed", type=_seed, default=0, help="same seed, same drawings (default 0)")
    draw.add_argument(
        "--out",
        type=_out,
        help="FILE.png, a grid; FILE.npy, an array (count, 28, 28) in [0, 1]; default: digit.png, e.g. 7.png",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 after one line about what was wrong."""
    options = _parser().parse_args(arguments)
    out: Path = options.out or Path(f"{options.digit}.png")
    # Imported late, so that a mistyped command is answered at once.
    import torch

    from cvae_lib.checkpoints import CheckpointError
    from cvae_lib.environment import write_atomically
    from cvae_lib.pretrained import load_cvae

    try:
        model = load_cvae()
        generator = torch.Generator().manual_seed(options.seed)
        images = model.draw(options.digit, count=options.count, generator=generator)
        write_atomically(out, _encoded(images, out.suffix))
    except (OSError, CheckpointError) as error:
        reason = f"cannot write {out}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"cvae_lib: {reason}", file=sys.stderr)
        return 2
    print(f"{options.count} x {options.digit} -> {out}")
    return 0


def _encoded(images: "torch.Tensor", suffix: str) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, images[:, 0].numpy())
    else:
        # Not torchvision's save_image: it needs a torchvision that fits its torch, which drawing does not.
        from matplotlib.image import imsave

        # The default metadata names the version of matplotlib, and the same drawings would make other files.
        imsave(buffer, _sheet(images).numpy(), format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return buffer.getvalue()


def _sheet(images: "torch.Tensor", columns: int = 10, gap: int = 1, enlarge: int = 3) -> "torch.Tensor":
    """Return drawings row by row, dark ink on white paper, as bytes (H, W, 3)."""
    import torch
    from torch.nn.functional import pad

    columns = min(columns, len(images))
    paper = pad(1 - images[:, 0], (gap, gap, gap, gap), value=1.0)  # (N, h, w)
    paper = pad(paper, (0, 0, 0, 0, 0, -len(paper) % columns), value=1.0)  # the last row is filled up with white
    rows: torch.Tensor = paper.unflatten(0, (-1, columns))  # (R, columns, h, w)
    sheet = rows.transpose(1, 2).flatten(2).flatten(0, 1)  # (R h, columns w)
    large = sheet.repeat_interleave(enlarge, 0).repeat_interleave(enlarge, 1)
    return (255 * large).round().to(torch.uint8)[..., None].expand(-1, -1, 3)


if __name__ == "__main__":
    sys.exit(main())
