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

from studies.language.blocks import Aligned, Block, UnitSpec, ValueSpec
from studies.language.fits import Fit
from studies.language.models import ModelSpec, Task
from studies.language.results import Generate, Plot, Screen
from studies.language.study import Study
from studies.language.train import Train
from studies.load import load_study
