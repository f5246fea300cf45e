"""What several rooms need of the surroundings: limits, devices and precision, folders and files, random streams.

Nothing here imports another part of the library, so every part may ask.
"""

from cvae_lib.environment._devices import (
    Precision,
    autocast,
    evaluation_mode,
    has_native_bf16,
    is_cheap_to_inspect,
    pick_device,
    plain_defaults,
)
from cvae_lib.environment._files import cache_folder, data_root, write_atomically
from cvae_lib.environment._random import named_generator, sample_from, seed_streams, seeded
from cvae_lib.environment._settings import Settings, at_most, settings, shows_progress

__all__ = [
    "Precision",
    "Settings",
    "at_most",
    "autocast",
    "cache_folder",
    "data_root",
    "evaluation_mode",
    "has_native_bf16",
    "is_cheap_to_inspect",
    "named_generator",
    "pick_device",
    "plain_defaults",
    "sample_from",
    "seed_streams",
    "seeded",
    "settings",
    "shows_progress",
    "write_atomically",
]
