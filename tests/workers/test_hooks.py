"""Promise: a visit sees and replaces what a module is given or returns, however it is passed; only our own
hooks go, whatever happens; and a module that does not run exactly once is reported by name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.hooks import Tap, check_by_token, visiting


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


def plus(amount: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor + amount


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
    visits = [(tap, plus(1.0)), (tap, lambda tensor: saw.append(tensor.item())), (tap, lambda t: t * 3)]
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

    def fail(_: Tensor) -> None:
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


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5), (1, 3, 5), (2, 3, 5, 1)])
def test_a_tensor_that_is_not_rows_by_tokens_by_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"a\.b:output is \[.*in a run of 2 x 3 tokens"):
        check_by_token(torch.zeros(shape), Tap("a.b", "output"), (2, 3))
