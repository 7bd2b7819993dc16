"""The study definition: the language of study files, the tasks that make pairs, the cells of a sweep."""

__all__ = [
    "Aligned",
    "Block",
    "Fit",
    "Generate",
    "ModelSpec",
    "Plot",
    "Screen",
    "Study",
    "Task",
    "Train",
    "UnitSpec",
    "ValueSpec",
    "load_study",
]

from studies.blocks import Aligned, Block, UnitSpec, ValueSpec
from studies.fits import Fit
from studies.load import load_study
from studies.models import ModelSpec, Task
from studies.plots import Generate, Plot, Screen
from studies.spec import Study
from studies.train import Train
