"""Promise: every operation, value, subspace and form of location gives what a hand-written hook gives, to
1e-5 of the largest value."""

from collections.abc import Callable, Sequence
from typing import Any

import plain
import pytest
import torch
from tiny import tiny_module
from torch import Tensor

from workers.errors import RunError
from workers.intervene.features import PCA, SparseAutoencoder
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.positions import per_example
from workers.intervene.subspaces import LowRankRotation, Rotation
from workers.intervene.units import From, Unit

W = 32
MODEL = tiny_module("gpt2")
NET = IntervenableModel(MODEL)
PATH = "transformer.h.1"


def ids(seed: int, rows: int = 3, length: int = 5) -> Tensor:
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


BASE, SOURCE, SECOND = ids(0), ids(1), ids(2, length=7)
CLEAN = {
    name: plain.record(MODEL, tokens, PATH, "output")
    for name, tokens in {"base": BASE, "source": SOURCE, "source_2": SECOND}.items()
}
NUMBERS = torch.randn(W, generator=torch.Generator().manual_seed(3))

VALUES: dict[str, Any] = {name: name for name in (*CLEAN, "zero")} | {"tensor": NUMBERS}

ROTATION, LOW_RANK = Rotation(W, seed=1), LowRankRotation(W, 5, seed=2)
BOUNDLESS = BoundlessRotation(W, boundary=0.4, temperature=3.0, seed=3)
MASK, MASKED = Mask(W, temperature=0.5), Mask(Rotation(W, seed=4))
PRINCIPAL = PCA.fit(torch.randn(50, W, generator=torch.Generator().manual_seed(5)), 4)
FEATURES = SparseAutoencoder(*(torch.randn(shape) for shape in ((W, 48), (48, W), (48,), (W,))))
for mask in (MASK, MASKED):
    torch.nn.init.normal_(mask.mask, generator=torch.Generator().manual_seed(6))


def boundary_gates() -> Tensor:
    k = torch.arange(W)
    return torch.sigmoid((k - 0) / 3.0) * torch.sigmoid((0.4 * W - k) / 3.0)


def features(value: Tensor) -> Tensor:
    return torch.relu(value @ FEATURES.encoder + FEATURES.encoder_bias)


def centred(weight: Tensor, operation: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    def change(old: Tensor, other: Tensor) -> Tensor:
        before, given = ((value - PRINCIPAL.mean) @ weight for value in (old, other))
        return old + (operation(before, given) - before) @ weight.T

    return change


SUBSPACES: dict[str, tuple[Any, Sequence[int], Callable[[Callable], Callable]]] = {
    "all": (None, range(W), lambda op: op),
    "dimensions": ("3:9", range(3, 9), lambda op: op),
    "several dimensions": (["0:2", 5], [0, 1, 5], lambda op: op),
    "rotation": (ROTATION, range(W), lambda op: plain.rotated(ROTATION.weight, range(W), op)),
    "part": (ROTATION[4:12], range(W), lambda op: plain.rotated(ROTATION.weight, range(4, 12), op)),
    "low rank": (LOW_RANK, range(W), lambda op: plain.projected(LOW_RANK.weight, range(5), op)),
    "part of low rank": (LOW_RANK["1:3"], range(W), lambda op: plain.projected(LOW_RANK.weight, (1, 2), op)),
    "boundless": (BOUNDLESS, range(W), lambda op: plain.gated(BOUNDLESS.weight, boundary_gates(), op)),
    "mask": (MASK, range(W), lambda op: plain.gated(torch.eye(W), torch.sigmoid(MASK.mask / 0.5), op)),
    "masked rotation": (
        MASKED,
        range(W),
        lambda op: plain.gated(MASKED.of.weight, torch.sigmoid(MASKED.mask), op),
    ),
    "pca": (PRINCIPAL, range(W), lambda op: centred(PRINCIPAL.components, op)),
    "autoencoder": (FEATURES, range(W), lambda op: plain.encoded(features, FEATURES.decoder, op)),
}

LOCATIONS: dict[str, tuple[Any, list[list[int]]]] = {
    "one": (2, [[2], [2], [2]]),
    "last": (-1, [[-1], [-1], [-1]]),
    "several": ([1, 4], [[1, 4]] * 3),
    "all": ("all", [[0, 1, 2, 3, 4]] * 3),
    "own": (per_example([3, [4, 0], None]), [[3], [4, 0], []]),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("operation", plain.OPERATIONS)
@pytest.mark.parametrize("location", LOCATIONS)
@torch.no_grad()
def test_each_equals_the_hand_written_hook(operation: str, value: str, location: str) -> None:
    form, positions = LOCATIONS[location]
    if (value, location) == ("source_2", "all"):
        with pytest.raises(RunError, match="7 tokens of source_2 cannot change 5"):
            NET(BASE, {"source_2": SECOND}, units=[Unit("block_output", layer=1, from_=value)])
        return
    look = Unit("block_output", layer=1, intervention="collect")
    for name, (subspace, columns, wrap) in SUBSPACES.items():
        chosen, given = list(columns), VALUES[value]
        given = given[chosen] if isinstance(given, Tensor) else given
        unit = Unit(
            "block_output", layer=1, position=form, subspace=subspace, intervention=operation, from_=given
        )
        after: list[Tensor] = []
        touch = by_hand(value, positions, chosen, wrap(plain.OPERATIONS[operation]), after)
        expected = plain.run(MODEL, BASE, [(PATH, "output", touch)])
        found = NET(BASE, {"source": SOURCE, "source_2": SECOND}, units=[unit, look])
        is_close(found.collected[0], after[0], name)
        # What is zero by hand is rounding here, and norms make much of it: such logits say nothing.
        if after[0].norm(dim=-1).min() > 1e-2:
            is_close(found.logits, expected, name)


def by_hand(
    value: str, positions: list[list[int]], columns: list[int], change: Callable, after: list[Tensor]
) -> plain.Touch:
    """Does `change` with the value of this name, and notes the tensor that it leaves."""

    def other(b: int, n: int) -> Tensor:
        if value == "zero":
            return torch.zeros(len(columns))
        if value == "tensor":
            return NUMBERS[columns]
        return CLEAN[value][b, positions[b][n]][columns]

    def touch(tensor: Tensor) -> Tensor:
        after.append(plain.changed(tensor, positions, columns, other, change))
        return after[0]

    return touch


def is_close(found: Tensor, expected: Tensor, name: str) -> None:
    scale = max(expected.abs().max(), CLEAN["base"].abs().max())
    assert (found - expected).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize(
    ("to", "at"),
    [(1, 4), ([0, 2], [5, 1]), (-1, -2), (per_example([0, [1, 2], None]), per_example([6, [5, 4], None]))],
)
@torch.no_grad()
def test_positions_are_zipped_with_those_of_the_source(to: Any, at: Any) -> None:
    def listed(form: Any, length: int) -> list[list[int]]:
        forms = form if isinstance(form, tuple) else [form] * 3
        items = [[] if one is None else one if isinstance(one, list) else [one] for one in forms]
        return [[item % length for item in one] for one in items]

    positions, origins = listed(to, 5), listed(at, 7)

    def touch(tensor: Tensor) -> Tensor:
        return plain.changed(
            tensor, positions, range(W), lambda b, n: CLEAN["source_2"][b, origins[b][n]], lambda _, new: new
        )

    unit = Unit("block_output", layer=1, position=to, from_=From("source_2", position=at))
    found = NET(BASE, {"source_2": SECOND}, units=[unit]).logits
    torch.testing.assert_close(found, plain.run(MODEL, BASE, [(PATH, "output", touch)]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_heads_are_swapped_alone_and_a_subspace_is_of_each() -> None:
    path, rotation = "transformer.h.1.attn.c_proj", LowRankRotation(8, 2)
    other = plain.record(MODEL, SOURCE, path, "input")
    change = plain.projected(rotation.weight, (0, 1), plain.OPERATIONS["vanilla"])
    for subspace, by_head in ((None, plain.OPERATIONS["vanilla"]), (rotation, change)):

        def touch(tensor: Tensor, by_head: Callable = by_head) -> Tensor:
            for head in (0, 3):
                columns = list(range(head * 8, head * 8 + 8))
                tensor = plain.changed(
                    tensor, [[2]] * 3, columns, lambda b, n, chosen=columns: other[b, 2][chosen], by_head
                )
            return tensor

        unit = Unit("attention_value_output", layer=1, head=[0, 3], position=2, subspace=subspace)
        found = NET(BASE, SOURCE, units=[unit]).logits
        torch.testing.assert_close(
            found, plain.run(MODEL, BASE, [(path, "input", touch)]), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_skip_gives_what_the_module_was_given_after_changes_to_it() -> None:
    given: list[Tensor] = []

    def swap(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[:, 1] = 0.0
        given.append(changed)
        return changed

    def skip(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[:, [1, 2]] = given[0][:, [1, 2]]
        return changed

    units = [
        Unit("block_output", layer=1, position=[1, 2], intervention="skip"),
        Unit("block_input", layer=1, position=1, from_="zero"),
    ]
    expected = plain.run(MODEL, BASE, [(PATH, "input", swap), (PATH, "output", skip)])
    torch.testing.assert_close(NET(BASE, units=units).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_any_function_is_an_operation() -> None:
    def halfway(old: Tensor, new: Tensor) -> Tensor:
        return old.mul_(0.5) + new / 2  # it may even write into what it is given

    def touch(tensor: Tensor) -> Tensor:
        return plain.changed(
            tensor, [[0]] * 3, range(W), lambda b, n: CLEAN["source"][b, 0], lambda old, new: (old + new) / 2
        )

    found = NET(BASE, SOURCE, units=[Unit("block_output", layer=1, position=0, intervention=halfway)]).logits
    torch.testing.assert_close(found, plain.run(MODEL, BASE, [(PATH, "output", touch)]), atol=1e-5, rtol=1e-5)
