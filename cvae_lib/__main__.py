"""The command line: ``python -m cvae_lib draw 7 --count 12 --seed 3 --out sevens.png``."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn


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

    from cvae_lib._files import write_atomically
    from cvae_lib.pretrained import CheckpointError, load_cvae

    try:
        model = load_cvae()
        images = model.draw(
            torch.full((options.count,), options.digit), generator=torch.Generator().manual_seed(options.seed)
        )
        write_atomically(out, _encoded(images, options.digit, out.suffix))
    except (OSError, CheckpointError) as error:
        reason = f"cannot write {out}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"cvae_lib: {reason}", file=sys.stderr)
        return 2
    print(f"{options.count} x {options.digit} -> {out}")
    return 0


def _encoded(images: "torch.Tensor", digit: int, suffix: str) -> bytes:  # type: ignore[name-defined]
    if suffix == ".png":
        from cvae_lib.plots import digit_grid

        return digit_grid(images, f"{len(images)} drawings of the digit {digit}").png()
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, images[:, 0].numpy())
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
