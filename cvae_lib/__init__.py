"""cvae_lib: conditional variational autoencoders in PyTorch, composed of modules; in ``cvae_lib.course``, their course.

    from cvae_lib import CVAE, CVAEConfig, fit, log_likelihood
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Where each name of the top level lives. Imported when first asked for: most programs want a few of them.
_HOMES = {
    "CVAE": "model",
    "CVAEConfig": "config",
    "CheckpointError": "checkpoints",
    "History": "training",
    "ImageSet": "data",
    "TensorSet": "data",
    "TrainingDiverged": "training",
    "elbo_terms": "objective",
    "fit": "training",
    "importance_weighted_bound": "objective",
    "load_checkpoint": "training",
    "load_cvae": "pretrained",
    "log_likelihood": "evaluation",
    "save_checkpoint": "training",
}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from cvae_lib.checkpoints import CheckpointError as CheckpointError
    from cvae_lib.config import CVAEConfig as CVAEConfig
    from cvae_lib.data import ImageSet as ImageSet
    from cvae_lib.data import TensorSet as TensorSet
    from cvae_lib.evaluation import log_likelihood as log_likelihood
    from cvae_lib.model import CVAE as CVAE
    from cvae_lib.objective import elbo_terms as elbo_terms
    from cvae_lib.objective import importance_weighted_bound as importance_weighted_bound
    from cvae_lib.pretrained import load_cvae as load_cvae
    from cvae_lib.training import History as History
    from cvae_lib.training import TrainingDiverged as TrainingDiverged
    from cvae_lib.training import fit as fit
    from cvae_lib.training import load_checkpoint as load_checkpoint
    from cvae_lib.training import save_checkpoint as save_checkpoint


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cvae_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cvae_lib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
