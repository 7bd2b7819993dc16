"""A study on disk that no model ran: real plan and store code, numbers that can be done in the head."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.baseline_runs import COLUMNS, runs_table
from orchestrator.plan.build import LaneInputs, build_plan
from orchestrator.plan.prepare import Input
from orchestrator.plan.previous_plan import PreviousPlan
from orchestrator.plan.tables import Lane, Plan, encode_plan
from orchestrator.store import UNWRITTEN, Driver, Manifest, StudyStore, encode_part
from studies import Study
from studies.language.expand import PairClass
from studies.language.identity import lane_identity
from workers.model.facts import ModelFacts
from workers.vocabulary import CleanRun, ModelSpec

SITES = ("mlp_output", "block_output")
COUNTRIES = ("Spain", "Italy", "France", "Peru")
LAYERS, POSITIONS, PAIRS = 3, 5, len(COUNTRIES)
WORDS = ("The", " capital", " of", " is", *(f" {c}" for c in COUNTRIES), *(f" city{n}" for n in range(PAIRS)))
FAILED = ("mlp_output", 2, 4, 3)
"""The one job that failed: site, layer, position, pair."""
BASE_RUN, SOURCE_RUN = (-1.0, 3.0), (9.0, 1.0)
"""What the unintervened runs give label and base label."""
Hit = Callable[[Mapping[str, Any], int], bool]
"""Whether the label is predicted, by a cell's axes and a pair's number."""
BASE_LOGIT = 3.0
LOGSUMEXP = 12.0
PLOTS = {
    "map": {"kind": "heatmap", "x": "base_position", "y": "layer", "facet": "site", "fill": "iia"},
    "last": {"kind": "bars", "x": ["layer", "site"], "y": "iia", "where": "base_position = 4"},
}


def label_logit(site: str, layer: int, position: int, pair: int) -> float:
    return 2.0 * layer - position + pair / 4 + (5.0 if site == "block_output" else 0.0)


def is_hit(site: str, layer: int, position: int, pair: int) -> bool:
    """Whether the label is predicted."""
    return site == "block_output" and position == 3 and pair >= layer


def jobs() -> Iterator[tuple[str, int, int, int]]:
    """Every job that succeeded: site, layer, position, pair."""
    for site in SITES:
        for layer in range(LAYERS):
            for position in range(POSITIONS):
                for pair in range(PAIRS):
                    if (site, layer, position, pair) != FAILED:
                        yield site, layer, position, pair


def make_study(
    root: Path,
    plots: dict[str, Any] | None = PLOTS,
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    dtypes: Sequence[str] = ("float32",),
    block: Mapping[str, Any] | None = None,
    label_ids: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    more_blocks: Sequence[Mapping[str, Any]] = (),
    hit: Hit | None = None,
    margin: float = 1.0,
    **keys: Any,
) -> Path:
    """The study in the new folder `root`, all of it done.

    Its pairs have `columns` besides their own, each with a value for each pair; its block the keys in
    `block`, after which come `more_blocks`; and it runs in each of `dtypes`. `label_ids` are the label's and
    the base label's, of every pair. With `hit`, which is given a cell's axes as written and a pair's number,
    it says whether the label is predicted, by that `margin`. More `keys` are the study's own.
    """
    study = Study(
        study=root.name,
        models=[ModelSpec.model_validate({"ref": "small", "dtype": dtype}) for dtype in dtypes],
        pairs=[
            {**_row(n), **{name: values[n] for name, values in (columns or {}).items()}} for n in range(PAIRS)
        ],
        sweep=[
            {"sites": list(SITES), "layers": "all", "positions": "all", **one}
            for one in (block or {}, *more_blocks)
        ],
        plots=plots,
        **keys,
    )
    inputs = [replace(_input(n), **_labels(label_ids)) for n in range(PAIRS)]
    plan = _plan(study, inputs)
    store = StudyStore(root)
    with store.open_driver() as driver:
        driver.write_plan({**encode_plan(plan), "study.yaml": study.to_yaml().encode()})
        driver.commit([_write_tile(store, driver, plan, number, hit, margin) for number in plan.tiles])
    return root


def _row(n: int) -> dict[str, Any]:
    source = (n + 1) % PAIRS
    return {
        "base": f"The capital of {COUNTRIES[n]} is",
        "source": f"The capital of {COUNTRIES[source]} is",
        "base_label": f" city{n}",
        "label": f" city{source}",
        "span.country": COUNTRIES[n],
    }


def _input(n: int) -> Input:
    source = (n + 1) % PAIRS
    span = {"country": (3, 4)}
    return Input(
        given=n,
        tokens={"base": (0, 1, 2, 4 + n, 3), "source": (0, 1, 2, 4 + source, 3)},
        spans={"base": span, "source": span},
        label_ids=(8 + source,),
        base_label_ids=(8 + n,),
    )


def _labels(ids: tuple[tuple[int, ...], tuple[int, ...]] | None) -> dict[str, Any]:
    return {} if ids is None else {"label_ids": ids[0], "base_label_ids": ids[1]}


def _lane(number: int, spec: ModelSpec, inputs: Sequence[Input]) -> LaneInputs:
    facts = ModelFacts(
        ref="small",
        revision="0",
        dtype=spec.dtype,
        folder=Path(),
        model_type="llama",
        num_layers=LAYERS,
        num_heads=2,
        num_kv_heads=2,
        width=8,
        vocab_size=len(WORDS),
        num_parameters=100,
    )
    lane = Lane(
        lane=number,
        spec=spec.model_copy(update={"revision": "0"}),
        identity=lane_identity(facts, spec),
        num_parameters=100,
    )
    kind = PairClass(lengths=(("base", POSITIONS), ("source", POSITIONS)), blocks=None)
    return LaneInputs(
        lane=lane,
        facts=facts,
        model=spec,
        inputs=inputs,
        classes=dict.fromkeys(range(PAIRS), kind),
    )


def _plan(study: Study, inputs: Sequence[Input]) -> Plan:
    import pyarrow as pa

    brought = [_lane(number, spec, inputs) for number, spec in enumerate(study.lanes())]
    lanes = [one.lane for one in brought]
    texts = [[WORDS[i] for i in _input(n).tokens["base"]] for n in range(PAIRS)]
    assert not isinstance(study.pairs, str | None)
    plan = build_plan(
        study,
        brought,
        study.pairs,
        families=("logits", "kl"),
        earlier=PreviousPlan(),
        head={
            "study": study.study,
            "digest": "small",
            "lanes": [lane.to_json() for lane in lanes],
            "lane_numbers": {lane.identity: lane.lane for lane in lanes},
            "prompts": [{"usable": PAIRS} for _ in lanes],
        },
        base_tokens={(lane.lane, n): texts[n] for lane in lanes for n in range(PAIRS)},
    )
    tokens = {
        "lane": pa.array([lane.lane for lane in lanes for _ in WORDS], pa.uint16()),
        "id": pa.array([*range(len(WORDS))] * len(lanes), pa.int32()),
        "token": pa.array(WORDS * len(lanes)),
    }
    tables = {**plan.tables, "runs": runs_table(plan, _Scorer()), "tokens": pa.table(tokens)}
    return Plan(head=plan.head, tables=tables)


class _Scorer:
    """Gives the base run and the source run their numbers; the source is told by its label's country."""

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> dict[str, np.ndarray]:
        rows = [self._row(request) for request in requests]
        dtypes = {"f": np.float32, "i": np.int32}
        return {name: np.array([row[name] for row in rows], dtypes[code]) for name, code in COLUMNS}

    def _row(self, request: CleanRun) -> dict[str, float]:
        is_base = request.tokens[3] - 4 == request.base_label_ids[0] - 8
        label, base = BASE_RUN if is_base else SOURCE_RUN
        said = request.base_label_ids[0] if is_base else request.label_ids[0]
        return {
            "label_logit": label,
            "base_label_logit": base,
            "logsumexp": LOGSUMEXP,
            "label_rank": 0,
            "base_label_rank": 1,
            "pred_id": said,
            "pred_logit": max(label, base),
            "margin": 1.0,
        }


def _write_tile(
    store: StudyStore, driver: Driver, plan: Plan, number: int, hit: Hit | None, margin: float
) -> Manifest:
    tile = plan.tiles[number]
    given = dict(
        zip(
            plan.tables["inputs"]["pair"].to_pylist(), plan.tables["inputs"]["given"].to_pylist(), strict=True
        )
    )
    axes = {} if hit is None else axes_of_cells(plan)

    def is_label(cell: int, given: int) -> bool | None:
        return None if hit is None else hit(axes[cell], given)

    rows = [
        {**_job_row(plan, int(cell), pair, given[pair], is_label(int(cell), given[pair])), "margin": margin}
        for cell in plan.cellsets[tile.cellset]
        for pair in tile.pairs
    ]
    families = ("logits", "kl")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    draft = Manifest(
        path=store.fresh_path(driver.epoch, str(tile.lane)),
        **UNWRITTEN,
        families=families,
        lane=str(tile.lane),
        tile=number,
        k_lo=0,
        k_hi=len(plan.cellsets[tile.cellset]),
        rows=len(rows),
        failed=sum(row["error"] is not None for row in rows),
        tiers={"hooked": len(rows)},
        timings={"total_s": 2.0, "model_s": 1.5, "capture_s": 0.5},
        worker="worker-0",
        host="here",
    )
    state = driver.state
    assert state.plan is not None
    data = encode_part(columns, families)
    return store.write_rows(draft, data, study=state.study, seq=state.seq, plan=state.plan.id)


def axes_of_cells(plan: Plan) -> dict[int, dict[str, Any]]:
    """The axes of each cell as written, its lane and its block among them."""
    points = {row["_point"]: row for row in plan.tables["points"].to_pylist()}
    return {row["cell"]: points[row["point"]] for row in plan.tables["grid"].to_pylist()}


def _job_row(plan: Plan, cell: int, pair: int, given: int, is_label: bool | None) -> dict[str, Any]:
    place = plan.cells[cell].units[0].place
    (position,) = place.position
    assert place.layer is not None and isinstance(position, int)
    job = (place.site, place.layer, position, given)
    failed = job == FAILED and is_label is None
    is_label = is_hit(*job) if is_label is None else is_label
    found = plan.pairs[pair]
    values = {
        "label_logit": label_logit(*job),
        "base_label_logit": BASE_LOGIT,
        "logsumexp": LOGSUMEXP,
        "pred_logit": 8.0,
        "margin": 1.0,
        "label_rank": 0,
        "base_label_rank": 1,
        "pred_id": found.label_ids[0] if is_label else found.base_label_ids[0],
        "kl_base": 0.5,
        "kl_source": float("nan"),
        "tv_base": 0.25,
    }
    return {
        "cell": cell,
        "pair": pair,
        "error": '{"type": "ValueError", "message": "no such token"}' if failed else None,
        "attempt": 0,
        "tier": "hooked",
        **{name: None if failed else value for name, value in values.items()},
    }
