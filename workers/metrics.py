"""Metrics: the columns that say how a job came out, in one table. No torch here.

A *raw* metric is a number that a worker writes for each row of a part, computed with the others of its
family. A column of the view ``results`` is SQL over raw metrics, the labels of the row's pair and its
unintervened runs. Scoring, Parquet files, views, plots and ``docs/views.md`` follow these tables; to add a
metric is to add its lines here, and to compute it in `workers.engine.scoring` if it is raw.
"""

__all__ = [
    "DERIVED",
    "DIVERGENCES",
    "ESTIMATE",
    "LABELS",
    "LOGITS",
    "MEASURABLE",
    "METRIC_FAMILIES",
    "OBSERVED",
    "RAW",
    "RUN_VALUES",
    "Metric",
    "Raw",
    "documented",
    "families_in",
    "raw_metrics",
]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

LABELS, LOGITS, DIVERGENCES, ESTIMATE = "labels", "logits", "kl", "estimate"

METRIC_FAMILIES = (LABELS, LOGITS, DIVERGENCES, ESTIMATE)
"""Metrics that are computed together: logits of the label tokens alone; those, and how they stand among all
others; divergences of distributions; estimates, for which the job does not run."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Column of the files of rows that hold one of its families."""

    name: str
    families: tuple[str, ...]
    dtype: Literal["float32", "int32"] = "float32"
    """Without a value it is NaN, and -1 of an integer."""
    may_lack: bool = False
    """Files of earlier versions lack it: it is NULL there."""


RAW = (
    Raw("label_logit", (LABELS, LOGITS)),
    Raw("base_label_logit", (LABELS, LOGITS)),
    Raw("logsumexp", (LOGITS,)),
    Raw("pred_logit", (LOGITS,)),
    Raw("margin", (LOGITS,)),
    Raw("label_rank", (LOGITS,), "int32"),
    Raw("base_label_rank", (LOGITS,), "int32"),
    Raw("pred_id", (LOGITS,), "int32"),
    Raw("kl_base", (DIVERGENCES,)),
    Raw("kl_source", (DIVERGENCES,)),
    Raw("tv_base", (DIVERGENCES,), may_lack=True),
    Raw("estimate", (ESTIMATE,)),
)
"""In the order of a file's columns."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Column of the view ``results``.

    In its SQL ``r`` is the row as written, ``p`` its pair on the model, ``q`` the pair's unintervened runs,
    and ``t`` the word of the predicted token; ``{label}`` and ``{base_label}`` are the logits of the two
    labels, NULL without one, ``{is_label}`` is whether the prediction is the label, and ``{near_tie}``
    whether it is a matter of rounding.
    """

    name: str
    sql: str
    means: str
    family: str | None = None
    """The family that holds what it is made of; None where nothing measured is."""
    study_name: str | None = None
    """Name under which a study may ask for it, in ``metrics``; None where it may not."""
    title: str | None = None
    """Title in pictures; None for its name."""


def _or_null(raw: str) -> str:
    return f"nullif(r.{raw}, 'NaN'::FLOAT)"


OBSERVED = (
    Metric("label_id", "p.label_id", "token id of the label, the first of several"),
    Metric("label_logit", "{label}", "logit of the label; of several ids their logsumexp", LABELS, "logit"),
    Metric("label_logprob", "{label} - r.logsumexp", "log-probability of the label", LOGITS, "logprob"),
    Metric("label_rank", "nullif(r.label_rank, -1)", "how many tokens are above the label", LOGITS, "rank"),
    Metric("base_label_id", "p.base_label_id", "token id of the base label, the first of several"),
    Metric("base_label_logit", "{base_label}", "logit of the base label", LABELS),
    Metric("base_label_logprob", "{base_label} - r.logsumexp", "log-probability of the base label", LOGITS),
    Metric(
        "base_label_rank", "nullif(r.base_label_rank, -1)", "how many tokens are above the base label", LOGITS
    ),
    Metric("pred_id", "r.pred_id", "token id of the prediction, the top one", LOGITS, "pred"),
    Metric("pred_token", "t.token", "text of the prediction; NULL where the tokeniser has none", LOGITS),
    Metric("pred_logprob", "r.pred_logit - r.logsumexp", "log-probability of the prediction", LOGITS),
    Metric("margin", "r.margin", "logit of the prediction less that of the second", LOGITS),
    Metric("near_tie", "{near_tie}", "whether rounding decides the prediction", LOGITS),
    Metric(
        name="kl_base",
        sql=_or_null("kl_base"),
        means="KL(base run ‖ intervened run), in nats",
        family=DIVERGENCES,
        study_name="kl_base",
        title="KL(base ‖ intervened)",
    ),
    Metric(
        name="kl_source",
        sql=_or_null("kl_source"),
        means="KL(source run ‖ intervened run), in nats",
        family=DIVERGENCES,
        study_name="kl_source",
        title="KL(source ‖ intervened)",
    ),
    Metric(
        name="tv_base",
        sql=_or_null("tv_base"),
        means="total variation between base run and intervened run, from 0 to 1",
        family=DIVERGENCES,
        study_name="tv_base",
        title="total variation from the base run",
    ),
    Metric("generated", "NULL::VARCHAR", "generated text; NULL so far", None, "generated"),
)
"""Metrics that were seen, in the order of the view."""

DERIVED = (
    Metric(
        name="iia",
        sql="CASE WHEN p.label_id IS NOT NULL THEN ({is_label})::DOUBLE END",
        means="interchange intervention accuracy: 1 where the prediction is the label",
        family=LOGITS,
        study_name="iia",
        title="interchange accuracy",
    ),
    Metric(
        name="flip",
        sql="CASE WHEN NOT p.has_one_label THEN ({label} > {base_label})::DOUBLE END",
        means="1 where the label beats the base label; NULL where both are the same tokens",
        family=LABELS,
        study_name="flip",
        title="share of pairs where label beats base label",
    ),
    Metric(
        name="changed",
        sql="(r.pred_id <> q.base_run_pred_id)::DOUBLE",
        means="1 where the prediction is not the base run's",
        family=LOGITS,
        study_name="changed",
        title="share of changed predictions",
    ),
    Metric(
        name="logit_diff",
        sql="({label} - {base_label})::DOUBLE",
        means="logit of the label less that of the base label",
        family=LABELS,
        study_name="logit_diff",
        title="logit difference (label − base label)",
    ),
    Metric(
        name="prob",
        sql="exp(({label} - r.logsumexp)::DOUBLE)",
        means="probability of the label",
        family=LOGITS,
        study_name="prob",
        title="probability",
    ),
    Metric(
        name="base_prob",
        sql="exp(({base_label} - r.logsumexp)::DOUBLE)",
        means="probability of the base label",
        family=LOGITS,
        study_name="base_prob",
    ),
)
"""Metrics worked out of them, as doubles, so that means are exact; in the order of the view."""

RUN_VALUES: Mapping[str, str] = MappingProxyType(
    {
        "label_logit": "{label}",
        "base_label_logit": "{base_label}",
        "logit_diff": "({label} - {base_label})::DOUBLE",
        "prob": "exp(({label} - {logsumexp})::DOUBLE)",
        "base_prob": "exp(({base_label} - {logsumexp})::DOUBLE)",
        "pred_id": "{pred_id}",
    }
)
"""The same of the pair's unintervened runs, ``base_run_…`` and ``source_run_…``, in the order of the view."""

MEASURABLE: Mapping[str, str] = MappingProxyType(
    {one.study_name: one.family or LOGITS for one in (*DERIVED, *OBSERVED) if one.study_name is not None}
)
"""Names that a study may ask for, each with the family that holds it."""


def families_in(families: Iterable[str]) -> frozenset[str]:
    """These metric families, and those that they hold as well."""
    found = frozenset(families)
    return found | {LABELS} if LOGITS in found else found


def raw_metrics(families: Iterable[str]) -> dict[str, Raw]:
    """The raw metrics that these families hold, by name, in the order of a file's columns."""
    wanted = frozenset(families)
    return {raw.name: raw for raw in RAW if wanted.intersection(raw.families)}


def documented() -> str:
    """Markdown table of the view's metrics, as it stands in ``docs/views.md``."""
    lines = ["| column | under `metrics` | family | what it is |", "|---|---|---|---|"]
    for one in (*OBSERVED, *DERIVED):
        asked = f"`{one.study_name}`" if one.study_name else ""
        lines.append(f"| `{one.name}` | {asked} | {one.family or ''} | {one.means} |")
    return "\n".join(lines)
