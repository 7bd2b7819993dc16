"""The fits of `fitted` by hand: what each is made of, how well it does, and its row of the view `fits`.

What is drawn is read from the study's folder, and with it what is trained, which stays what it was drawn as
(`fitted.TRAINED`). All else is reckoned here in float64. Shapes: N activations, W width, K coordinates.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from views import fitted
from views.cells import Cell, Lane, cell, text_pair, unit
from views.expected import Near
from views.plain import Network, Pair, Space, columns_of, intervened, located
from views.scores import Values

Stored = Callable[[str], Any]
"""The coordinates that a fit of this identity was drawn as: ``weight`` [W, K], ``boundary``, ``gates()``."""

PLACES = (
    *(("das", "block_output", 1, None, -1, rank, seed, None) for rank in (1, 3) for seed in (0, 1)),
    *(
        (name, "mlp_output", layer, None, -1, *drawn, None)
        for name, drawn in (("bound", (None, 3)), ("gate", (4, 5)))
        for layer in (0, 1)
    ),
    ("pca", "block_output", 1, None, -1, 2, None, None),
    ("pca", "attention_value_output", 0, [0, 2], -1, 2, None, None),
    ("probe", "block_output", 1, None, -1, None, None, None),
    ("drawn", "block_output", 1, None, None, 5, 9, None),
    ("mu", "mlp_output", 1, None, "subject.last", None, None, "capital"),
    ("mu", "mlp_output", 1, None, "subject.last", None, None, "town"),
    ("mean", "attention_output", 0, None, -1, None, None, None),
    ("v", "mlp_output", 0, None, -1, None, None, None),
    ("S", "block_output", 0, None, None, None, None, None),
    ("broken", "block_output", 0, None, -1, 1, 0, None),
)
"""Every fit of a lane: name, site, layer, heads, position, rank, seed and template; S in one lane alone."""


def places(lane: Lane) -> Iterator[tuple[Any, ...]]:
    """Those of a lane."""
    return (one for one in PLACES if one[0] != "S" or lane.family == "llama")


def row(
    place: tuple[Any, ...],
    lane: Lane,
    network: Network,
    fit: str,
    stored: Stored,
    folder: Path,
    most_s: float,
) -> dict[str, Any]:
    """The row of `fits` of a fit; what it makes is kept in `network` for jobs that use it.

    Args:
        place: one of `PLACES`.
        lane: the model's.
        network: the model.
        fit: its identity.
        stored: what was drawn.
        folder: where the autoencoder lies.
        most_s: as long as the study ran.
    """
    name, site, layer, heads, position, rank, seed, template = place
    method = fitted.METHODS.get(name, {"method": "mean"})["method"]
    is_trained = method in ("das", "boundless", "mask")
    made: dict[str, Any] = dict.fromkeys(("num_steps", "loss", "held_out_iia", "num_parameters"))
    used, held = _pairs(name, template, lane.family, is_trained)
    if name not in ("S", "broken"):
        made |= {"num_steps": 0}
    if is_trained and name != "broken":
        made |= _trained(name, network, fit, stored, (site, layer), used, held)
    elif name == "S":
        network.spaces[fit] = _features(load_file(folder / "features.safetensors"))
    elif name == "drawn":
        network.spaces[fit] = _along(_orthonormal(stored(fit).weight, rank))
        made |= {"num_parameters": 0}
    elif name != "broken":
        made |= _reckoned(name, network, fit, (site, layer, position, heads), rank, used)
    return {
        "study": fitted.NAME,
        "fit": fit,
        "model": lane.model,
        "dtype": lane.dtype,
        "revision": lane.revision,
        "name": name,
        "method": method,
        "site": site,
        "layer": layer,
        "heads": heads,
        "position": None if position is None else str(position),
        "read": "-1" if is_trained else None,
        "rank": rank,
        "seed": seed,
        "per": None if template is None else json.dumps({"template": template}),
        "num_pairs": len(used),
        "num_held_out": len(held),
        "made": name != "broken",
        **made,
        "seconds": None if name in ("S", "broken") else Near(most_s / 2, most_s / 2 - 1e-9),
    }


def _pairs(name: str, template: str | None, family: str, is_trained: bool) -> tuple[list[Pair], list[Pair]]:
    """The pairs that a fit is made from, and those that it is measured on."""
    rows = fitted.PAIRS
    used = {
        "probe": [row for row in rows if row["template"] == "capital"],
        "mu": [row for row in rows if row["n"] != 4 and row["template"] == template],
        "v": [row for row in rows if row["split"] == "test"],
        "drawn": [],
        "S": [],
    }.get(name, rows)
    held: list[dict[str, Any]] = []
    if is_trained:
        used = [row for row in rows if row["split"] == "train" and "label" in row]
        prompts = {row[run] for row in used for run in ("base", "source")}
        held = [
            row
            for row in rows
            if row["split"] != "train" and "label" in row and not prompts & {row["base"], row["source"]}
        ]
    return [text_pair(family, row) for row in used], [text_pair(family, row) for row in held]


def _trained(
    name: str,
    network: Network,
    fit: str,
    stored: Stored,
    at: tuple[str, int],
    used: Sequence[Pair],
    held: Sequence[Pair],
) -> dict[str, Any]:
    """Coordinates as drawn; the loss of the last step, which takes all pairs, and what is measured."""
    spec, space = fitted.METHODS[name], stored(fit)
    temperature, share, gates = spec.get("temperature", [None])[-1], 0.0, None
    if name == "bound":
        weight = _orthonormal(space.weight, space.width)
        k, end = torch.arange(space.width), 0.5 * space.width
        gates = torch.sigmoid(k / temperature) * torch.sigmoid((end - k) / temperature)
        share = 0.5
    elif name == "gate":
        # All numbers of a mask begin at 0, and so as gates of one half.
        weight = _orthonormal(space.of.weight, spec["rank"])
        gates = torch.full((spec["rank"],), 0.5)
        share = 0.5
    else:
        weight = _orthonormal(space.weight, space.num_coordinates)
    network.spaces[fit] = _along(weight, gates)
    entropies = [-_log_prob(network, pair, _swap(pair, at, fit)) for pair in used]
    loss = sum(entropies) / len(entropies) + spec.get("penalty", 0.0) * share
    hits = [_is_hit(network, pair, _swap(pair, at, fit)) for pair in held]
    return {
        "num_steps": spec["num_steps"],
        "loss": Near(loss, 1e-4),
        "held_out_iia": sum(hits) / len(hits),
        "num_parameters": weight.numel() + {"bound": 1, "gate": weight.shape[1]}.get(name, 0),
    }


def _reckoned(
    name: str,
    network: Network,
    fit: str,
    at: tuple[str, int, int | str, list[int] | None],
    rank: int | None,
    used: Sequence[Pair],
) -> dict[str, Any]:
    """What is made of activations alone."""
    base, source = (_activations(network, used, run, at) for run in ("base", "source"))
    if name == "pca":
        directions, loss = _principal(torch.cat([base, source]), rank or 0)
        network.spaces[fit] = _along(directions)
        return {"loss": Near(loss, 1e-5), "num_parameters": directions.numel()}
    classes = {run: [pair.row[f"{run}_class"] == "x" for pair in used] for run in ("base", "source")}
    if name == "probe":
        direction, loss = _probe(torch.cat([base, source]), [*classes["base"], *classes["source"]])
        network.spaces[fit] = _along(direction[:, None])
        return {"loss": Near(loss, 1e-4), "num_parameters": len(direction)}
    if name == "v":
        # Of the bases more are of the class y, so the difference leads from y to x.
        is_x = torch.tensor([*classes["base"], *classes["source"]])
        rows = torch.cat([base, source])
        vector = rows[is_x].mean(0) - rows[~is_x].mean(0)
    else:
        vector = (source if name == "mu" else base).mean(0)
    network.vectors[fit] = vector
    return {"num_parameters": len(vector)}


def _activations(
    network: Network, pairs: Sequence[Pair], run: str, at: tuple[str, int, int | str, list[int] | None]
) -> Tensor:
    """What runs hold at a place [N, W]; of heads each by itself."""
    site, layer, position, heads = at
    found: list[Tensor] = []
    for pair in pairs:
        tokens = pair.tokens[run]
        where = len(tokens) - 1 if position == -1 else located([position], pair.spans[run])[0]
        value = network.clean(tokens)[1][network.tap(site, layer)][where]
        blocks = columns_of(network, {"site": site, "heads": heads}, None, len(value))
        found += [value[columns] for columns in blocks]
    return torch.stack(found)


def _swap(pair: Pair, at: tuple[str, int], fit: str) -> Cell:
    return cell(pair, unit(pair, *at, -1, fit=fit))


def _log_prob(network: Network, pair: Pair, one: Cell) -> float:
    values = Values.of(intervened(network, [(pair, one)])[0][-1], network.dtype)
    logit = values.logit(pair.label_ids)
    assert logit is not None
    return logit - values.logsumexp


def _is_hit(network: Network, pair: Pair, one: Cell) -> bool:
    """Whether the prediction is the label."""
    first = Values.of(intervened(network, [(pair, one)])[0][-1], network.dtype).first
    hits = {token in pair.label_ids for token in first}
    assert len(hits) == 1, "no near tie decides"
    return hits.pop()


def _along(directions: Tensor, gates: Tensor | None = None) -> Space:
    """Coordinates along orthonormal columns [W, K]."""
    return Space(lambda value: directions.T @ value, lambda change: directions @ change, gates)


def _orthonormal(weight: Tensor, rank: int) -> Tensor:
    weight = weight.detach().double()
    assert weight.shape[1] == rank
    torch.testing.assert_close(weight.T @ weight, torch.eye(rank).double(), rtol=0, atol=1e-5)
    return weight


def _principal(rows: Tensor, rank: int) -> tuple[Tensor, float]:
    """The first directions of variance [W, K], and the share of the variance that they leave out."""
    centred = rows - rows.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    return directions[:, -rank:].flip(1), float(1 - variances[-rank:].sum() / variances.sum())


def _probe(rows: Tensor, is_first: Sequence[bool]) -> tuple[Tensor, float]:
    """The direction [W] in which two classes' scores differ, and the loss: logistic regression on
    standardised activations, with a ridge of a thousandth on both classes' weights."""
    scale = rows.std(0)
    values, sign = (rows - rows.mean(0)) / scale, torch.tensor(is_first).double() * 2 - 1
    # At the optimum the classes' weights are w and -w: their scores differ by 2 w.
    weight = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)

    def loss(found: Tensor) -> Tensor:
        scores = 2 * (values @ found[:-1]) + found[-1]
        return torch.nn.functional.softplus(-sign * scores).mean() + 2e-3 * found[:-1].square().sum()

    for _ in range(30):  # Newton's method
        slope = torch.autograd.grad(loss(weight), weight)[0]
        curve = torch.autograd.functional.hessian(loss, weight.detach())
        weight = (weight - torch.linalg.solve(curve, slope)).detach().requires_grad_(True)
    direction = (weight[:-1] / scale).detach()
    return direction / direction.norm(), float(loss(weight).detach())


def _features(weights: Mapping[str, Tensor]) -> Space:
    """A sparse autoencoder: ``relu(x @ encoder + bias)``; what a change of features adds is decoded."""
    found = {name: tensor.double() for name, tensor in weights.items()}
    return Space(
        lambda value: (value @ found["W_enc"] + found["b_enc"]).relu(),
        lambda change: change @ found["W_dec"],
    )
