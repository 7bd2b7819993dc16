"""Methods of fits with their defaults, those of studies and of `workers.fits.units.fit`. No torch here."""

__all__ = ["BATCH_SIZE", "DEFAULTS", "DRAWS", "LR", "METHODS", "NUM_STEPS", "TRAINED", "WITHOUT_PAIRS"]

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NUM_STEPS = 300
BATCH_SIZE = 32
LR = 5e-3

_STEPS: Mapping[str, Any] = {"num_steps": NUM_STEPS, "batch_size": BATCH_SIZE, "lr": LR, "of": "source"}

DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "das": {"rank": None, **_STEPS},
        # The temperatures, and what the share that is exchanged costs: Wu et al. 2023, Huang et al. 2024.
        "boundless": {**_STEPS, "temperature": (50.0, 0.1), "penalty": 1.0},
        "mask": {"rank": None, **_STEPS, "temperature": (1e-2, 1e-7), "penalty": 0.0},
        "mean": {"of": "base", "per": None},
        "mean_difference": {},
        "pca": {"rank": None, "of": None},
        "probe": {},
        "random_rotation": {"rank": None},
        "sae": {"path": None, "centered": False},
    }
)
"""Settings of each method, besides pairs and a seed, with the value where nobody says one."""

METHODS = tuple(DEFAULTS)

TRAINED = ("das", "boundless", "mask")
"""Methods that are trained on labels, and measured on pairs held out."""

DRAWS = (*TRAINED, "random_rotation")
"""Methods that draw from a seed."""

WITHOUT_PAIRS = ("random_rotation", "sae")
"""Methods that look at no pair: their coordinates are drawn, or read from a file."""
