"""Promise: the example scripts run as they stand and show what the source documents show."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_TOKENS, NUM_LAYERS, NUM_SITES = 5, 30, 2


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script, and gives the names that it leaves."""

    def run(name: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", [name])
        return runpy.run_path(str(EXAMPLES / name))

    return run


def test_the_gradient_of_an_interchange_reaches_every_parameter(
    example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    left = example("interchange_training.py")
    gpt2: nn.Module = left["gpt2"]
    before, after = (line.split(": ")[1] for line in capsys.readouterr().out.splitlines()[:2])
    assert (before, int(after)) == ("0", sum(parameter.numel() for parameter in gpt2.parameters()))
    difference: Tensor = left["difference"][0].abs().amax(-1)
    assert difference[:3].tolist() == [0, 0, 0]
    assert (difference[3:] > 0).all()
    assert gpt2.h[0].mlp.c_fc.weight.grad.abs().max() > 0


def test_both_halves_of_a_rotation_are_the_sources_output(example: Any) -> None:
    left = example("mlp_halves.py")
    net, source = left["net"], left["source"]
    torch.testing.assert_close(left["out"].logits, net(source, units=[]).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(left["out"].logits, net(left["base"], units=[]).logits, atol=1e-3)
    assert net.trainable_parameters()[0].grad.norm() > 1e-3


def test_a_later_time_step_overrides_earlier_ones(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    left = example("gru_steps.py")
    assert capsys.readouterr().out.splitlines()[1:4] == ["True", "True", "outputs are not zero: True"]
    net, base, source, swapped = (left[name] for name in ("net", "base", "source", "swapped"))
    torch.testing.assert_close(left["out"].logits, net(source, units=[]).logits, atol=1e-5, rtol=1e-5)
    # The steps after a swapped one go on from its state, in a loop written out.
    cell = torch_cell(net.module.layers[0].cell)
    state = torch.zeros(10, 2)
    for step in range(8):
        state = cell(source[:, step], state)
    for step in range(5, 10):
        state = cell(base[:, step], state)
    torch.testing.assert_close(swapped(4, 7)[:, 0], net.module.head(state), atol=1e-6, rtol=1e-5)


def torch_cell(ours: Any) -> nn.GRUCell:
    cell = nn.GRUCell(2, 2)
    weights = {"ih": ours.from_input, "hh": ours.from_state}
    cell.load_state_dict(
        {f"{kind}_{name}": getattr(of, kind) for name, of in weights.items() for kind in ("weight", "bias")}
    )
    return cell


@pytest.mark.smollm2
@pytest.mark.timeout(900)
def test_a_capital_is_recalled_at_its_country_and_then_at_the_last_token(
    example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    example("factual_recall.py")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["_Madrid", "0.3773"]
    assert lines[12] == ["_Rome", "0.3803"]
    rows = {(int(layer), site, int(at)): (float(p), float(q)) for layer, site, at, p, q in lines[23:]}
    assert len(rows) == NUM_LAYERS * NUM_SITES * NUM_TOKENS
    # Before the countries differ, both runs hold the same.
    assert all(found == (0.3773, 0.0033) for (_, _, at), found in rows.items() if at < 3)
    assert rows[0, "mlp_output", 3] == (0.0002, 0.3811)
    assert rows[23, "attention_input", 3] == (0.0001, 0.2800)
