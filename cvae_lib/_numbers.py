"""When the numbers in a tensor may be looked at, so that input is checked where that costs next to nothing."""

import torch
from torch import Tensor


def can_be_read(values: Tensor) -> bool:
    """Say whether there are numbers and asking for them is cheap.

    A GPU would have to be waited for, and a function that is being compiled would be split in two; there what is out
    of range has to be taken as it comes.
    """
    return values.device.type == "cpu" and values.numel() > 0 and not torch.compiler.is_compiling()
