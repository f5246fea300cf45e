"""Pen paths: the skeletons of the ten digits, shaken by a hand and laid on the page."""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 28  # pixels; a position is a pixel index, so the picture's centre lies at 13.5
CENTRE = (SIDE - 1) / 2
MARGIN = 2.0  # pixels the average pen stays away from each edge of the picture
WARPS = 6  # ways in which the page bends under the pen
SEGMENTS = 32  # straight pieces per digit: the longest path then bends about every 1.7 pixels

Point = tuple[float, float]
Way = tuple[float, tuple[tuple[Point, ...], ...]]  # how often this way of writing occurs, its strokes

# x to the right and y down, in units of the digit's height. A stroke is a smooth curve through its points;
# strokes that name the same point meet there in a corner, and stay joined however the points are shaken.
WAYS: tuple[tuple[Way, ...], ...] = (
    (  # 0: closed at the top; narrow, closed past its start; started from the right with an inner tail
        (4, (((.42, .02), (.16, .16), (.03, .50), (.15, .86), (.37, 1.0), (.60, .86), (.69, .50), (.58, .14),
              (.36, .03)),)),
        (2, (((.36, .00), (.14, .22), (.08, .60), (.20, .94), (.40, .96), (.54, .66), (.53, .28), (.40, .04),
              (.24, .10)),)),
        (2, (((.62, .14), (.40, .00), (.12, .24), (.04, .62), (.22, .96), (.50, .92), (.70, .56), (.66, .20),
              (.48, .05)),)),
        (1, (((.60, .04), (.30, .06), (.05, .34), (.10, .80), (.42, .98), (.74, .76), (.78, .36), (.56, .08),
              (.36, .16)),)),
    ),
    (  # 1: one stroke; bent; with a serif; with serif and foot
        (6, (((.20, .00), (.20, .33), (.20, .66), (.20, 1.0)),)),
        (2, (((.18, .00), (.23, .33), (.22, .66), (.15, 1.0)),)),
        (2, (((.02, .24), (.14, .14), (.24, .00)), ((.24, .00), (.24, .35), (.24, .68), (.24, 1.0)))),
        (1, (((.06, .22), (.18, .12), (.28, .00)), ((.28, .00), (.28, .35), (.28, .68), (.28, .98)),
             ((.06, .99), (.28, .98), (.52, .98)))),
    ),
    (  # 2: looped foot; sharp corner; rounded corner with a wave; wide and low with a small loop
        (4, (((.06, .20), (.26, .01), (.52, .12), (.50, .42), (.26, .78), (.08, .95), (.05, .82), (.22, .80),
              (.46, .95), (.72, .90)),)),
        (3, (((.05, .22), (.24, .02), (.52, .08), (.55, .34), (.32, .66), (.04, .97)),
             ((.04, .97), (.30, .95), (.66, .97)))),
        (3, (((.08, .14), (.32, .00), (.56, .14), (.52, .44), (.28, .74), (.08, .92), (.18, .97), (.42, .92),
              (.68, .97)),)),
        (2, (((.10, .10), (.38, .00), (.58, .20), (.44, .54), (.16, .86), (.02, .92), (.08, .74), (.28, .80),
              (.50, .98), (.78, .86)),)),
    ),
    (  # 3: two bows meeting in a point; two bows joined by a small loop; flat top; soft waist
        (4, (((.06, .12), (.30, .00), (.52, .14), (.46, .36), (.22, .46)),
             ((.22, .46), (.52, .56), (.58, .78), (.34, .98), (.02, .90)))),
        (2, (((.08, .10), (.34, .00), (.54, .16), (.40, .38), (.22, .46), (.20, .52), (.34, .47), (.56, .60),
              (.52, .88), (.24, 1.0), (.00, .88)),)),
        (2, (((.06, .04), (.28, .02), (.54, .01)), ((.54, .01), (.40, .20), (.24, .38)),
             ((.24, .38), (.48, .44), (.58, .68), (.40, .94), (.16, 1.0), (.00, .90)))),
        (3, (((.04, .16), (.26, .01), (.50, .12), (.44, .36), (.32, .46), (.50, .58), (.56, .80), (.34, .99),
              (.00, .92)),)),
    ),
    (  # 4: open, two strokes; closed in one go; open with a round bowl; open with a late, short stem
        (4, (((.08, .04), (.05, .26), (.04, .50)), ((.04, .50), (.26, .52), (.62, .46)),
             ((.52, .00), (.50, .34), (.48, .66), (.47, 1.0)))),
        (2, (((.46, .00), (.24, .30), (.02, .62)), ((.02, .62), (.32, .62), (.72, .58)),
             ((.46, .00), (.46, .32), (.45, .66), (.44, 1.0)))),
        (4, (((.10, .02), (.04, .28), (.12, .50), (.34, .50), (.52, .36)),
             ((.58, .00), (.54, .34), (.52, .66), (.52, 1.0)))),
        (2, (((.20, .00), (.11, .24), (.01, .46)), ((.01, .46), (.30, .49), (.66, .47)),
             ((.54, .16), (.49, .40), (.44, .70), (.42, 1.0)))),
    ),
    (  # 5: hat on its own; smooth, in one pull; short neck and a wide belly
        (4, (((.14, .04), (.10, .24), (.09, .42)), ((.14, .04), (.36, .04), (.64, .00)),
             ((.09, .42), (.34, .38), (.56, .56), (.50, .86), (.24, 1.0), (.00, .90)))),
        (3, (((.66, .00), (.40, .03), (.20, .09), (.14, .28), (.24, .42), (.46, .54), (.52, .76), (.34, .96),
              (.02, .94)),)),
        (2, (((.20, .02), (.14, .20), (.08, .38)), ((.20, .02), (.42, .06), (.68, .04)),
             ((.08, .38), (.26, .40), (.50, .50), (.56, .72), (.36, .96), (.10, .99), (.00, .86)))),
    ),
    (  # 6: curved stem; straight stem and a round loop; long stem with a small, flat loop
        (4, (((.46, .00), (.20, .20), (.05, .52), (.08, .84), (.28, 1.0), (.50, .86), (.50, .62), (.32, .54),
              (.10, .70)),)),
        (3, (((.30, .00), (.18, .28), (.06, .60), (.12, .90), (.34, .99), (.54, .82), (.46, .60), (.24, .58),
              (.09, .74)),)),
        (2, (((.58, .02), (.32, .12), (.10, .42), (.04, .78), (.22, .99), (.46, .92), (.52, .74), (.36, .66),
              (.16, .76), (.14, .88)),)),
    ),
    (  # 7: plain; round shoulder; barred; with a hook at the start
        (5, (((.02, .06), (.28, .05), (.58, .02)), ((.58, .02), (.44, .30), (.34, .64), (.28, 1.0)))),
        (3, (((.00, .10), (.24, .02), (.50, .02), (.56, .16), (.44, .46), (.32, .76), (.26, 1.0)),)),
        (2, (((.02, .07), (.30, .05), (.62, .02)), ((.62, .02), (.46, .32), (.34, .66), (.26, 1.0)),
             ((.20, .50), (.40, .48), (.62, .46)))),
        (2, (((.04, .22), (.05, .12), (.08, .05)), ((.08, .05), (.32, .06), (.62, .00)),
             ((.62, .00), (.46, .26), (.36, .62), (.34, 1.0)))),
    ),
    (  # 8: one S that returns; ring upon ring; narrow, left open at the top right
        (4, (((.50, .12), (.28, .00), (.08, .16), (.18, .38), (.42, .56), (.52, .80), (.30, 1.0), (.06, .84),
              (.16, .58), (.42, .38), (.52, .16), (.40, .03)),)),
        (2, (((.30, .46), (.10, .32), (.14, .07), (.38, .00), (.54, .16), (.46, .38), (.29, .47), (.08, .64),
              (.06, .88), (.28, 1.0), (.50, .88), (.50, .62), (.33, .48)),)),
        (3, (((.56, .08), (.34, .02), (.14, .14), (.18, .34), (.38, .52), (.44, .78), (.26, .99), (.10, .84),
              (.20, .62), (.40, .40), (.58, .18)),)),
    ),
    (  # 9: ring and straight tail; ring and curved tail; ring closed, then a stem of its own
        (4, (((.54, .14), (.34, .00), (.10, .14), (.06, .38), (.26, .48), (.48, .34), (.55, .12)),
             ((.55, .12), (.52, .40), (.48, .70), (.44, 1.0)))),
        (3, (((.56, .10), (.32, .00), (.08, .18), (.10, .42), (.34, .46), (.54, .26), (.58, .10), (.58, .44),
              (.50, .80), (.28, 1.0), (.06, .92)),)),
        (3, (((.50, .06), (.26, .02), (.06, .22), (.14, .42), (.38, .40), (.52, .20), (.50, .05), (.48, .36),
              (.40, .70), (.32, 1.0)),)),
    ),
)  # fmt: skip


class Skeletons(NamedTuple):
    """All ways of writing, stacked: `starts[v] @ points[v]` are where the straight pieces of way v start."""

    points: Float[Tensor, "v k 2"]  # control points, padded with zeros
    starts: Float[Tensor, "v s k"]
    ends: Float[Tensor, "v s k"]
    chances: Float[Tensor, "10 v"]  # cumulative over v; ways of other digits add nothing


def _spline(count: int, pieces: int) -> Float[Tensor, "{pieces}+1 {count}"]:
    """Weights of `count` points in a Catmull-Rom curve through them, at `pieces` + 1 equal steps."""
    t = torch.linspace(0, count - 1, pieces + 1, dtype=torch.float64)
    left = t.floor().clamp(max=count - 2).long()
    u = t - left
    basis = torch.tensor([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]], dtype=u.dtype) / 2
    cubic = u[:, None] ** torch.arange(4) @ basis.T
    padded = torch.zeros(pieces + 1, count + 2, dtype=torch.float64)
    padded.scatter_(1, left[:, None] + torch.arange(4), cubic)
    weights = padded[:, 1:-1].clone()
    # beyond its two ends the curve goes on straight: p[-1] = 2 p[0] - p[1]
    weights[:, 0] += 2 * padded[:, 0]
    weights[:, 1] -= padded[:, 0]
    weights[:, -1] += 2 * padded[:, -1]
    weights[:, -2] -= padded[:, -1]
    return weights.float()


def _shares(strokes: tuple[tuple[Point, ...], ...]) -> list[int]:
    """How many of the SEGMENTS pieces each stroke gets: by its length, at least two."""
    lengths = [float(torch.tensor(stroke).diff(dim=0).norm(dim=1).sum()) for stroke in strokes]
    shares = [max(2, round(SEGMENTS * length / sum(lengths))) for length in lengths]
    shares[lengths.index(max(lengths))] += SEGMENTS - sum(shares)
    return shares


@cache
def skeletons() -> Skeletons:
    """The table above as tensors on the CPU, made once."""
    ways = [(digit, weight, strokes) for digit, group in enumerate(WAYS) for weight, strokes in group]
    names = [list(dict.fromkeys(point for stroke in strokes for point in stroke)) for _, _, strokes in ways]
    width = max(map(len, names))
    points = torch.zeros(len(ways), width, 2, dtype=torch.float32)
    starts, ends = torch.zeros(2, len(ways), SEGMENTS, width, dtype=torch.float32)
    weights = torch.zeros(10, len(ways), dtype=torch.float32)
    for v, (digit, weight, strokes) in enumerate(ways):
        points[v, : len(names[v])] = torch.tensor(names[v])
        weights[digit, v] = weight
        row = 0
        for stroke, pieces in zip(strokes, _shares(strokes), strict=True):
            columns = [names[v].index(point) for point in stroke]
            curve = _spline(len(stroke), pieces)
            starts[v, row : row + pieces, columns] = curve[:-1]
            ends[v, row : row + pieces, columns] = curve[1:]
            row += pieces
    chances = weights.cumsum(1) / weights.sum(1, keepdim=True)
    return Skeletons(points, starts, ends, chances)


def shaken(points: Float[Tensor, "n k 2"], normal: Float[Tensor, "n r"]) -> Float[Tensor, "n k 2"]:
    """Bend the page smoothly under the pen, then move every control point a little."""
    slope, bow, wave, waist, swell, sag = normal[:, :WARPS, None].unbind(1)
    x, y = points.unbind(2)
    turn = math.pi * y
    bent_x = 0.3 + (x - 0.3) * (1 + 0.15 * swell * (2 * y - 1))
    bent_x = bent_x + 0.04 * bow * turn.sin() + 0.02 * wave * (2 * turn).sin()
    bent_y = y + 0.07 * slope * (x - 0.3) + 0.05 * waist * turn.sin() + 0.03 * sag * (2 * math.pi * x).sin()
    return torch.stack((bent_x, bent_y), 2) + 0.026 * normal[:, WARPS:].reshape(points.shape)


def _mass(path: Float[Tensor, "n 2 s 2"], pressure: Float[Tensor, "n s"]) -> Float[Tensor, "n s 1"]:
    """Share of the ink in each straight piece: its length times its width."""
    ink: Tensor = torch.linalg.vector_norm(path[:, 1] - path[:, 0], dim=2) * pressure
    return (ink / ink.sum(1, keepdim=True)).unsqueeze(2)


def path_slant(path: Float[Tensor, "n 2 s 2"], pressure: Float[Tensor, "n s"]) -> Float[Tensor, "n"]:
    """Slant of a path by its own second moments: -mu_xy / mu_yy, where a piece of length l adds l^2 / 12."""
    mass = _mass(path, pressure)
    middle, step = path.mean(1), path[:, 1] - path[:, 0]
    middle = middle - (mass * middle).sum(1, keepdim=True)
    moments = (mass * (middle * middle[..., 1:] + step * step[..., 1:] / 12)).sum(1)
    return -moments[:, 0] / moments[:, 1]


def fitted(
    path: Float[Tensor, "n 2 s 2"],
    pressure: Float[Tensor, "n s"],
    size: Float[Tensor, "n"],
    thickness: Float[Tensor, "n"],
    slant: Float[Tensor, "n"],
    width: Float[Tensor, "n"],
) -> tuple[Float[Tensor, "n 2 s 2"], Float[Tensor, "n s"]]:
    """Scale a path to its height in pixels, shear it to its slant, let the pressure average 1 along it."""
    x, y = path.unbind(3)
    scale = (size - thickness) / (y.amax((1, 2)) - y.amin((1, 2)))
    x, y = x * (scale * width)[:, None, None], y * scale[:, None, None]
    # shearing moves ink between pieces, narrowing changes the slant: a few rounds settle both
    for _ in range(4):
        room = (SIDE - 2 * MARGIN - thickness) / (x.amax((1, 2)) - x.amin((1, 2)))
        x = x * room.clamp(max=1)[:, None, None]
        missing = slant - path_slant(torch.stack((x, y), 3), pressure)
        x = x - missing[:, None, None] * y
    path = torch.stack((x, y), 3)
    length = torch.linalg.vector_norm(path[:, 1] - path[:, 0], dim=2)
    return path, pressure / ((length * pressure).sum(1) / length.sum(1))[:, None]


def placed(
    path: Float[Tensor, "n 2 s 2"],
    pressure: Float[Tensor, "n s"],
    thickness: Float[Tensor, "n"],
    wanted: Float[Tensor, "n 2"],
) -> Float[Tensor, "n 2 s 2"]:
    """Move the centre of mass to its place, counted from the picture's, or as near as the margins allow."""
    path = path - (_mass(path, pressure) * path.mean(1)).sum(1)[:, None, None]
    reach = (SIDE / 2 - MARGIN - thickness / 2)[:, None]
    lowest, highest = -reach - path.amin((1, 2)), reach - path.amax((1, 2))
    at = torch.where(lowest > highest, (lowest + highest) / 2, wanted.clamp(lowest, highest))
    return path + at[:, None, None] + CENTRE
