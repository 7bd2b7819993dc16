"""Promise: a visit sees and replaces what a module is given or returns, however it is passed; only our own
hooks go, whatever happens; and a module that does not run as often as it should is reported by name: once,
or once for each time step, whose number its visit is told."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.model.hooks import Tap, visiting


class Pair(nn.Module):
    """Returns a tuple, and is given its tensor by name."""

    def forward(self, *, scale: float, hidden_states: Tensor) -> tuple[Tensor, str]:
        return hidden_states * scale, "rest"


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.twice, self.never = nn.Identity(), Pair(), nn.Identity(), nn.Identity()
        self.names = nn.ModuleDict({"texts": Texts()})

    def forward(self, value: Tensor) -> Tensor:
        value, rest = self.pair(scale=2.0, hidden_states=self.first(value))
        assert rest == "rest"
        assert self.names["texts"]("text") == ["text"]
        return self.twice(self.twice(value))


class Texts(nn.Module):
    def forward(self, text: str) -> list[str]:
        return [text]


class Recurrent(nn.Module):
    """Adds one at each of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Identity()

    def forward(self, value: Tensor, num_steps: int) -> Tensor:
        for _ in range(num_steps):
            value = self.step(value + 1)
        return value


def plus(amount: float) -> Callable[[Tensor, int], Tensor]:
    return lambda tensor, call: tensor + amount


@pytest.mark.parametrize(
    ("tap", "result"),
    [
        (Tap("", "input"), 22.0),
        (Tap("first", "output"), 22.0),
        (Tap("pair", "input"), 22.0),
        (Tap("pair", "output"), 12.0),
    ],
)
def test_inputs_outputs_keywords_and_tuples_are_replaced(tap: Tap, result: float) -> None:
    model, value = Model(), torch.ones(1)
    with visiting(model, [(tap, plus(10.0))]) as seen:
        assert model(value).item() == result
    assert seen.faults() == {}
    assert value.item() == 1.0
    assert model(value).item() == 2.0


def test_visits_of_one_tap_run_as_listed_and_none_leaves_the_value() -> None:
    tap, saw = Tap("first", "output"), []
    visits = [(tap, plus(1.0)), (tap, lambda t, call: saw.append(t.item())), (tap, lambda t, call: t * 3)]
    with visiting(model := Model(), visits):
        assert model(torch.ones(1)).item() == 12.0
    assert saw == [2.0]


def test_modules_that_do_not_run_once_or_hold_no_tensor_are_faults_by_name() -> None:
    taps = [
        Tap("never", "output"),
        Tap("twice", "input"),
        Tap("names.texts", "input"),
        Tap("names.texts", "output"),
    ]
    with visiting(model := Model(), [(tap, plus(0.0)) for tap in taps]) as seen:
        model(torch.ones(1))
    says = {tap: str(error) for tap, error in seen.faults().items()}
    assert "'never' did not run" in says[taps[0]]
    assert "'twice' ran 2 times" in says[taps[1]]
    assert "no tensor at names.texts:input" in says[taps[2]]
    assert "no tensor at names.texts:output" in says[taps[3]]


def test_an_exception_leaves_no_hook_of_ours_and_all_of_the_callers() -> None:
    model, calls = Model(), []
    model.first.register_forward_hook(lambda *_: calls.append(1))

    def fail(tensor: Tensor, call: int) -> None:
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), visiting(model, [(Tap("first", "output"), fail)]):
        model(torch.ones(1))
    with (
        pytest.raises(ModelError, match="no module 'nowhere'"),
        visiting(model, [(Tap("first", "input"), fail), (Tap("nowhere", "input"), fail)]),
    ):
        pass
    assert model(torch.ones(1)).item() == 2.0
    assert len(calls) == 2
    assert not model.first._forward_pre_hooks


def test_a_recurrent_module_is_visited_at_each_step_and_goes_on_from_what_a_visit_returns() -> None:
    saw: list[tuple[int, float]] = []

    def visit(tensor: Tensor, call: int) -> Tensor | None:
        saw.append((call, tensor.item()))
        return tensor * 10 if call == 1 else None

    with visiting(model := Recurrent(), [(Tap("step", "output", per_step=True), visit)], num_steps=4) as seen:
        assert model(torch.zeros(1), 4).item() == 22.0
    assert saw == [(0, 1.0), (1, 2.0), (2, 21.0), (3, 22.0)]
    assert seen.faults() == {}


@pytest.mark.parametrize(
    ("num_calls", "says"), [(3, "'step' ran 3 times in a forward of 4 time steps"), (0, "'step' did not run")]
)
def test_a_recurrent_module_that_runs_too_rarely_is_a_fault(num_calls: int, says: str) -> None:
    tap = Tap("step", "output", per_step=True)
    with visiting(model := Recurrent(), [(tap, plus(0.0))], num_steps=4) as seen:
        model(torch.zeros(1), num_calls)
    assert says in str(seen.faults()[tap])
