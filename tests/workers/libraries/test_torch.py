"""Promise: what torch renames is found another way or refused in one line; its defaults decide no numbers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.workers.libraries.covering import outcome, without
from workers.errors import RunError, StoreError
from workers.fits.fitted import FitReport, Fitted, decode_fitted, encode_fitted
from workers.iit.spec import TorchClass
from workers.iit.trainer import optimizer_of, schedule_of
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.operations import exchange
from workers.intervene.saving import filled_space, read_units, save_units, space_config, space_tensors
from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace
from workers.intervene.units import Unit
from workers.libraries import torch as library
from workers.libraries import torch_rotations, torch_updates
from workers.zoo.build import make

pytestmark = pytest.mark.versions

# Errors, hooks, dtypes, streams


@without("torch", "TorchDispatchMode")
def test_where_operations_cannot_be_seen_missing_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "DispatchMode", library._Blind)
    found = outcome("torch", "TorchDispatchMode")
    assert found.state == "error" and "weights cannot be drawn from a seed" in found.told
    with pytest.raises(RunError, match="give a checkpoint that has all weights"), library._Blind():
        pass


@without("torch", "text of an out-of-memory error")
def test_memory_that_runs_out_in_other_words_is_known_by_its_type_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_MEMORY_TEXTS", ("no more room",))
    assert library.is_out_of_memory(torch.OutOfMemoryError("tried to allocate"))
    assert library.is_out_of_memory(MemoryError())
    assert library.is_out_of_memory(RuntimeError("there is no more room"))
    assert outcome("torch", "text of an out-of-memory").state == "degraded"


@without("torch", "AcceleratorError")
def test_device_errors_are_known_by_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "AcceleratorError")
    assert library.breaks_device(RuntimeError("CUDA error: an illegal memory access"))
    assert not library.breaks_device(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert outcome("torch", "AcceleratorError").told == "device errors are told by their text alone"


def seen_inside() -> list[bool]:
    """What is seen outside of a checkpoint, inside one, and where tensors are saved otherwise."""
    seen: list[bool] = []

    def noted(values: torch.Tensor) -> torch.Tensor:
        seen.append(library.is_checkpointing())
        return values.sin()

    values = torch.ones(2, requires_grad=True)
    noted(values)
    checkpoint(noted, values, use_reentrant=False)
    with torch.autograd.graph.save_on_cpu():
        noted(values)
        checkpoint(noted, values, use_reentrant=False)
    return seen


@without("torch", "_C._autograd._top_saved_tensors_default_hooks")
def test_a_checkpoint_is_found_without_torchs_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [False, True, False, True]
    assert seen_inside() == wanted
    hooks = torch._C._autograd._top_saved_tensors_default_hooks

    def renamed(value: bool) -> Any:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            return tensor

        return hooks(value) and (pack, pack)

    monkeypatch.setattr(torch._C._autograd, "_top_saved_tensors_default_hooks", renamed)
    assert seen_inside() == wanted
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    assert seen_inside() == wanted
    assert outcome("torch", "_C._autograd").told.startswith("checkpoints are found among the functions")


@without("torch", "Module._apply")
@pytest.mark.parametrize("space", [Rotation(4), Mask(4), Mask(LowRankRotation(4, 2))], ids=lambda s: str(s))
def test_coordinates_in_another_dtype_are_refused(monkeypatch: pytest.MonkeyPatch, space: Subspace) -> None:
    values, other = torch.randn(2, 3, 4)
    exchange(space, "vanilla", values, other)
    monkeypatch.setattr(library.KeepsDtype, "_apply", nn.Module._apply)
    moved = copy.deepcopy(space).to(torch.bfloat16)
    with pytest.raises(RunError, match=r"learned coordinates became torch\.bfloat16 when"):
        exchange(moved, "vanilla", values.bfloat16(), other.bfloat16())
    assert outcome("torch", "Module._apply").told == "models in another dtype are refused with coordinates"


@without("torch", "numbers that a seeded generator draws")
def test_other_numbers_of_a_seed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **given: real(n, **given).flip(0))
    library._other_stream.cache_clear()
    try:
        with pytest.raises(RunError, match=r"draws other orders from a seed than the versions before it"):
            make("mlp", width=4, num_layers=1, outputs=2, seed=0)
        assert outcome("torch", "numbers that a seeded").state == "error"
    finally:
        monkeypatch.undo()
        library._other_stream.cache_clear()
    make("mlp", width=4, num_layers=1, outputs=2, seed=0)


# Rotations


def learned(space: Subspace, num_steps: int = 3) -> Subspace:
    """The subspace after some steps of training."""
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss: Any = sum(
            (matrix * torch.arange(matrix.numel()).view(matrix.shape).cos()).sum()
            for matrix in matrices(space)
        )
        loss.backward()
        optimizer.step()
    return space


SPACES = {
    "square": lambda: Rotation(6, seed=2, parts={"a": "0:2"}),
    "tall": lambda: LowRankRotation(7, 3, seed=2),
    "full": lambda: LowRankRotation(5, 5, seed=2),
    "one": lambda: LowRankRotation(5, 1, seed=2),
    "boundless": lambda: BoundlessRotation(6, temperature=2.0, seed=2),
    "masked": lambda: Mask(LowRankRotation(7, 3, seed=2), temperature=0.5),
    "mask": lambda: Mask(5),
}


def matrices(space: Subspace) -> list[torch.Tensor]:
    """Everything that counts in its values."""
    found = [getattr(part, "weight", None) for part in space.modules() if isinstance(part, Subspace)]
    gates = space.gates()
    return [*(one for one in found if one is not None), *([] if gates is None else [gates])]


def as_before(space: Subspace) -> dict[str, torch.Tensor]:
    """The tensors of a file of before: torch's own names."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in space.state_dict().items()}


def assert_equal(one: Subspace, other: Subspace) -> None:
    for mine, theirs in zip(matrices(one), matrices(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", SPACES)
def test_a_fit_on_disk_is_a_plain_matrix_with_the_bits_that_were_used(kind: str) -> None:
    space = learned(SPACES[kind]())
    data, about = encode_fitted(Fitted(content=space, report=FitReport(num_steps=3)))
    names = set(load(data))
    assert names <= {"rotation", "mask", "boundary", "of.rotation"}
    again = decode_fitted(data, about).content
    assert isinstance(again, Subspace)
    assert_equal(again, space)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert space_config(again) == space_config(space)


@pytest.mark.parametrize("kind", SPACES)
def test_a_fit_of_before_gives_the_bits_that_torch_gave(kind: str) -> None:
    from safetensors.torch import save

    space = learned(SPACES[kind]())
    about = {"space": space_config(space), "report": {}}
    again = decode_fitted(save(as_before(space)), about).content
    assert isinstance(again, Subspace)
    assert_equal(again, space)


@pytest.mark.parametrize("kind", SPACES)
def test_a_saved_unit_stays_trainable_and_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    space = learned(SPACES[kind]())
    save_units([Unit("block_output", layer=0, subspace=space)], tmp_path)
    again = read_units(tmp_path)[0].subspace
    assert_equal(again, space)
    learned(space)
    learned(again)
    assert_equal(again, space)
    for part in again.modules():
        if isinstance(part, Rotation | LowRankRotation | BoundlessRotation):
            torch.testing.assert_close(part.weight.mT @ part.weight, torch.eye(part.num_coordinates))


def test_units_that_are_trained_no_more_stay_so(tmp_path: Path) -> None:
    space = learned(LowRankRotation(5, 2))
    held = filled_space(space_config(space), space_tensors(space))
    trained = Mask(held)
    units = [Unit("block_output", layer=0, subspace=one) for one in (held, trained)]
    save_units(units, tmp_path)
    first, second = (unit.subspace for unit in read_units(tmp_path))
    assert second.of is first
    assert [name for name, one in second.named_parameters() if one.requires_grad] == ["mask"]
    assert torch.equal(first.weight, space.weight)


def test_units_of_before_are_read_and_trainable(tmp_path: Path) -> None:
    import json

    space = learned(LowRankRotation(5, 2))
    save_units([Unit("block_output", layer=0, subspace=space)], tmp_path)
    written = json.loads((tmp_path / "units.json").read_text())
    written["format"] = 1
    del written["subspaces"][0]["is_trained"]
    (tmp_path / "units.json").write_text(json.dumps(written))
    tensors = {f"subspace.0.{name}": tensor for name, tensor in as_before(space).items()}
    save_file(tensors, tmp_path / "units.safetensors")
    again = read_units(tmp_path)[0].subspace
    assert torch.equal(again.weight, space.weight)
    for one, other in zip(again.parameters(), space.parameters(), strict=True):
        assert torch.equal(one, other) and one.requires_grad


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("rotation"), "'rotation'"),
        (
            lambda tensors: tensors.update(other=torch.ones(1)),
            "there is a tensor 'other', and no place",
        ),
        (lambda tensors: tensors.update(rotation=torch.ones(5, 3)), r"rotation has the shape \[5, 3\]"),
    ],
)
def test_a_fit_with_other_tensors_is_refused(change: Any, says: str) -> None:
    from safetensors.torch import save

    data, about = encode_fitted(Fitted(content=LowRankRotation(5, 2)))
    tensors = load(data)
    change(tensors)
    with pytest.raises(StoreError, match=f"what was fitted cannot be read .*{says}"):
        decode_fitted(save(tensors), about)


@without("torch", "parametrizations.weight.original")
@pytest.mark.parametrize("kind", ["square", "tall"])
def test_files_do_not_hang_on_torchs_names(
    monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: Path
) -> None:
    space = learned(SPACES[kind]())
    old = as_before(space)
    real = nn.Module.state_dict

    def renamed(self: nn.Module, *args: Any, **given: Any) -> Any:
        found = real(self, *args, **given)
        return {name.replace("parametrizations.weight", "free.weight"): one for name, one in found.items()}

    monkeypatch.setattr(nn.Module, "state_dict", renamed)
    assert outcome("torch", "parametrizations.weight").state == "degraded"
    assert_equal(filled_space(space_config(space), old), space)
    save_units([Unit("block_output", layer=0, subspace=space)], tmp_path)
    again = read_units(tmp_path)[0].subspace
    torch.testing.assert_close(again.weight, space.weight)
    assert all(parameter.requires_grad for parameter in again.parameters())


@without("torch", "parametrizations.orthogonal")
def test_another_default_map_of_torch_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [learned(make()) for make in SPACES.values()]
    real = parametrizations.orthogonal

    def other(
        module: nn.Module,
        name: str = "weight",
        orthogonal_map: str | None = "cayley",
        *,
        use_trivialization: bool = False,
    ) -> nn.Module:
        return real(module, name, orthogonal_map, use_trivialization=use_trivialization)

    monkeypatch.setattr(torch_rotations, "orthogonal", other)
    for space, made in zip(wanted, SPACES.values(), strict=True):
        assert_equal(learned(made()), space)
    assert outcome("torch", "parametrizations.orthogonal").state == "ok"


def test_a_torch_that_cannot_be_told_the_map_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_rotations, "orthogonal", lambda module, name: module)
    with pytest.raises(RunError, match=r"cannot be told how to learn a rotation \(orthogonal_map, use_"):
        Rotation(4)
    assert outcome("torch", "parametrizations.orthogonal").state == "error"


# Optimisers


class AdamW(torch.optim.AdamW):
    """One whose defaults are others."""

    def __init__(self, params: Any, lr: float = 0.5, weight_decay: float = 0.7, eps: float = 1e-8) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, eps=eps)


class StepLR(torch.optim.lr_scheduler.StepLR):
    """Likewise."""

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.9) -> None:
        super().__init__(optimizer, step_size, gamma)


@without("torch", "defaults of the optimizers")
def test_another_default_of_an_optimizer_changes_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", AdamW)
    monkeypatch.setattr(torch.optim.lr_scheduler, "StepLR", StepLR)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = optimizer_of(TorchClass("AdamW", {}), [parameter])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.01)
    schedule: Any = schedule_of(TorchClass("StepLR", {"step_size": 1}), optimizer, 3)
    assert schedule.gamma == 0.1
    assert optimizer_of(TorchClass("AdamW", {"lr": 0.2}), [parameter]).param_groups[0]["lr"] == 0.2
    told = outcome("torch", "defaults of the optimizers").told
    assert "AdamW(lr=0.001) is 0.5 by now" in told and "StepLR(gamma=0.1) is 0.9 by now" in told


def test_every_optimizer_and_schedule_that_a_study_may_name_has_its_defaults() -> None:
    def classes(module: Any, kind: type) -> set[str]:
        return {name for name, one in vars(module).items() if isinstance(one, type) and issubclass(one, kind)}

    optimizers = classes(torch.optim, torch.optim.Optimizer) - {"Optimizer", "LBFGS"}
    assert optimizers == set(torch_updates._OPTIMIZERS)
    without_defaults = {"LRScheduler", "ChainedScheduler", "ExponentialLR", "LambdaLR", "MultiplicativeLR"}
    schedules = classes(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)
    others = {name for name in schedules if name.startswith("_")} | {"SequentialLR", "ReduceLROnPlateau"}
    assert schedules - without_defaults - others == set(torch_updates._SCHEDULES)


@without("torch", "state_dict of an optimizer")
def test_a_state_that_another_torch_kept_names_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])

    def refuse(self: Any, state: Any) -> None:
        raise KeyError("param_groups")

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", refuse)
    with pytest.raises(
        StoreError, match=r"the optimizer was kept by torch 2\.6\.0, and torch .* cannot take"
    ):
        torch_updates.take_up("optimizer", optimizer, {}, "2.6.0")
    assert outcome("torch", "state_dict of an optimizer").state == "error"

    def exhausted(self: Any, state: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        torch_updates.take_up("optimizer", optimizer, {}, None)
