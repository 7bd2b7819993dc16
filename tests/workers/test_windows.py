"""Promise: tokens, time steps and the one position of a whole run are read and written alike, as [B, P, W];
what has none of these forms is refused by name, and so are some of several tokens where there is one."""

import pytest
import torch

from workers.errors import ModelError
from workers.model.hooks import Tap
from workers.model.windows import positions_at, window_of

TAP, STEP = Tap("a.b", "output"), Tap("a.b", "output", per_step=True)


@pytest.mark.parametrize(
    ("tap", "call", "shape", "num_tokens", "positions"),
    [
        (TAP, 0, (2, 3, 5), 3, range(3)),
        (TAP, 0, (2, 4, 5), None, range(4)),
        (TAP, 0, (2, 5), 3, range(1)),
        (TAP, 0, (2,), 3, range(1)),
        (STEP, 2, (2, 5), 3, range(2, 3)),
        (STEP, 0, (2, 1, 5), 3, range(1)),
    ],
)
def test_every_form_is_shown_by_position_and_restored(
    tap: Tap, call: int, shape: tuple[int, ...], num_tokens: int | None, positions: range
) -> None:
    tensor = torch.randn(shape)
    window = window_of(tensor, tap, call, 2, num_tokens)
    assert window.values.shape == (2, len(positions), shape[-1] if len(shape) > 1 else 1)
    assert window.values.data_ptr() == tensor.data_ptr()
    assert [column for _, column in window.columns(list(positions))] == list(range(len(positions)))
    torch.testing.assert_close(window.restore(window.values), tensor, rtol=0, atol=0)


def test_a_step_shows_only_its_own_of_the_positions_asked_for() -> None:
    seen = [window_of(torch.zeros(2, 5), STEP, step, 2, 4).columns((3, 0, 2)) for step in range(4)]
    assert seen == [[(1, 0)], [], [(2, 0)], [(0, 0)]]


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 5), (1, 3, 5), (2, 3, 5, 1), (3, 5), ()])
def test_a_tensor_without_rows_or_tokens_of_the_run_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"a\.b:output is \[.*in a run of 2 x 3 tokens: only"):
        window_of(torch.zeros(shape), TAP, 0, 2, 3)


def test_a_step_that_returns_a_whole_run_is_refused() -> None:
    with pytest.raises(ModelError, match=r"is \[2, 3, 5\] in a step of 2 rows: only \(rows, width\)"):
        window_of(torch.zeros(2, 3, 5), STEP, 0, 2, 3)


def test_all_tokens_or_the_first_name_the_one_position_and_others_do_not() -> None:
    assert positions_at((2, 0), 4, 4, TAP) == (2, 0)
    assert positions_at((), 4, 1, TAP) == ()
    assert positions_at((0,), 4, 1, TAP) == (0,)
    assert positions_at((3, 1, 0, 2), 4, 1, TAP) == (0,)
    for some in ((3,), (0, 1)):
        with pytest.raises(ModelError, match=r"at a\.b:output, which has 1 for the whole run of 4: leave"):
            positions_at(some, 4, 1, TAP)
