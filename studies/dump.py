"""Specs as the plain data that a file would hold."""

__all__ = ["plain"]

from collections.abc import Mapping
from typing import Any

from studies.base import Spec
from studies.blocks import ValueSpec
from studies.models import ModelSpec, Task, plain_model, plain_task
from studies.train import Optimizer, Schedule


def plain(value: Any) -> Any:
    """Mappings, lists and scalars that read back as `value`; what has its default is left out."""
    if isinstance(value, ModelSpec):
        return plain_model(value)
    if isinstance(value, Task):
        return plain_task(value)
    if isinstance(value, Optimizer | Schedule):
        return {"name": value.name, **plain(value.options)}
    if isinstance(value, Spec):
        return _spec(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _spec(spec: Spec) -> Any:
    given = {
        info.alias or name: plain(getattr(spec, name))
        for name, info in type(spec).model_fields.items()
        if info.is_required() or getattr(spec, name) != info.default
    }
    return given["run"] if isinstance(spec, ValueSpec) and list(given) == ["run"] else given
