"""Training: one loop for every device, that can be stopped and taken up again."""

from cvae_lib.checkpoints import CheckpointError
from cvae_lib.environment import Precision, autocast, seeded
from cvae_lib.training._checkpoint import load_checkpoint, save_checkpoint
from cvae_lib.training._history import History
from cvae_lib.training._loop import fit
from cvae_lib.training._objective import Objective
from cvae_lib.training._run import TrainingDiverged
from cvae_lib.training._schedules import Schedule, constant, cosine, one_cycle
from cvae_lib.training._stopping import EarlyStopping

__all__ = [
    "CheckpointError",
    "EarlyStopping",
    "History",
    "Objective",
    "Precision",
    "Schedule",
    "TrainingDiverged",
    "autocast",
    "constant",
    "cosine",
    "fit",
    "load_checkpoint",
    "one_cycle",
    "save_checkpoint",
    "seeded",
]
