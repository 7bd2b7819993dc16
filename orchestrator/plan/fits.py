"""Fits that a plan's cells name: the settings and pairs of each, and the identity that follows from them."""

__all__ = ["FitPairs", "LaneFits", "MadeFit"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from uuid import UUID

from orchestrator.plan.autoencoders import Weights, weights_of
from orchestrator.plan.held_out import apart, split
from orchestrator.plan.pair_classes import passing_blocks
from orchestrator.plan.pair_columns import Row
from orchestrator.plan.prepare import Input
from studies import Fit, Study
from studies.language.fields import Scalar
from studies.language.grammar import Names, parse_range
from studies.language.identity import content_id
from studies.language.values import MEAN, PER_POSITION, RANK, FitPlace, WrittenPosition, looked_at, tokens_at
from studies.language.variables import VARIABLE
from workers.errors import StudyError, nearest
from workers.fit_methods import DEFAULTS, DRAWS, TRAINED, WITHOUT_PAIRS
from workers.vocabulary import Prompt

MOST_HELD_OUT = 512
"""Pairs that a fit is measured on: enough for an accuracy within two hundredths or so."""

_BY_CLASS = ("mean_difference", "probe")
_CLASSES = ("base_class", "source_class")


@dataclass(frozen=True, slots=True)
class FitPairs:
    """A set of pairs, by their place among the given ones, and a name for it."""

    fitted: tuple[int, ...]
    held_out: tuple[int, ...]
    classes: tuple[tuple[str | None, str | None], ...]
    """Of each of `fitted`; empty where no class is used."""
    digest: str
    """Of those that the fit is made from."""


@dataclass(frozen=True, slots=True)
class MadeFit:
    """A fit that cells name."""

    name: str
    spec: Mapping[str, Any]
    place: FitPlace
    per: Mapping[str, Scalar]
    pairs: FitPairs


@dataclass(eq=False)
class LaneFits:
    """The fits of a study in one lane, as `studies.language.values.FitNames` asks for them.

    Args:
        study: whose fits.
        lane: its number.
        model: its identity, as canonical JSON.
        rows: the given pairs.
        inputs: the kept ones of the lane.
        pair_id: the id of an input's pair.
    """

    study: Study
    lane: int
    model: str
    rows: Sequence[Row]
    inputs: Sequence[Input]
    pair_id: Callable[[Input], UUID]
    made: dict[tuple[str, str], MadeFit] = field(default_factory=dict)
    """(identity, name) → fit that was asked for so far."""
    _identities: dict[object, str] = field(default_factory=dict)
    _sets: dict[object, FitPairs] = field(default_factory=dict)

    def axes(self, name: str) -> Mapping[str, tuple[Scalar, ...]]:
        """As `FitNames.axes`."""
        fit = self._fit(name)
        found = {RANK: fit.ranks, "seed": _seeds(fit)}
        return {key: tuple(values) for key, values in found.items() if values is not None}

    def identity(self, name: str, place: FitPlace, names: Names) -> str:
        """As `FitNames.identity`."""
        fit = self._fit(name)
        self._check_columns(name, fit)
        rank = fit.rank if fit.ranks is None else names[RANK]
        seed = _seed(fit, names) if fit.method in DRAWS else None
        per = {column: names[f"pair.{column}"] for column in fit.per or () if column != PER_POSITION}
        if VARIABLE in names:
            per[VARIABLE] = names[VARIABLE]
        key = (name, place, rank, seed, tuple(per.items()))
        if key not in self._identities:
            self._identities[key] = self._make(name, fit, place, rank, seed, per)
        return self._identities[key]

    def _check_columns(self, name: str, fit: Fit) -> None:
        """Refuse a column of ``per`` that no pair has.

        Raises:
            StudyError: naming it, and the columns that there are.
        """
        columns = dict.fromkeys(column for row in self.rows for column in row)
        for column in fit.per or ():
            if column not in (PER_POSITION, *columns):
                raise StudyError(
                    f"fits.{name}: per: no pair has a column {column!r}; the pairs have"
                    f" {', '.join(columns)}{nearest(column, columns)}"
                )

    def _check_run(self, name: str, fit: Fit) -> None:
        """Refuse a run that no pair has.

        Raises:
            StudyError: naming it, and the runs that there are.
        """
        run = _of(fit)
        if run is not None and run not in self._runs:
            raise StudyError(
                f"fits.{name}: of: no pair has a run {run!r}; the pairs have {', '.join(self._runs)}"
                f"{nearest(run, self._runs)}"
            )

    def _make(
        self,
        name: str,
        fit: Fit,
        place: FitPlace,
        rank: int | None,
        seed: int | None,
        per: Mapping[str, Scalar],
    ) -> str:
        self._check_run(name, fit)
        spec = _spec(fit, place, rank, seed)
        if fit.path is not None:
            spec = self._weights[name].completed(spec)
        pairs = self._pairs(name, fit, place, seed, per)
        # A file is known by what it holds, not by where it lies: its bytes, and how they are read.
        content: dict[str, object] = {
            "model": self.model,
            **{key: value for key, value in spec.items() if key != "path"},
        }
        if fit.method in WITHOUT_PAIRS:
            # It is made of no run: units at all positions of a site share it.
            place = replace(place, position=())
        else:
            content |= {"position": place.position, "per": per, "pairs": pairs.digest}
        if fit.method in TRAINED:
            content["read"] = place.read
        identity = content_id("fit", content).hex
        self.made[identity, name] = MadeFit(name, spec, place, per, pairs)
        return identity

    def _fit(self, name: str) -> Fit:
        found = (self.study.fits or {}).get(name)
        return Fit(method="mean") if found is None and name == MEAN else (self.study.fits or {})[name]

    def _pairs(
        self, name: str, fit: Fit, place: FitPlace, seed: int | None, per: Mapping[str, Scalar]
    ) -> FitPairs:
        """The pairs of a fit; one that needs none takes any, to see how wide the place is."""
        if fit.method in WITHOUT_PAIRS:
            return FitPairs((self._candidates[0][0].given,), (), (), "")
        trained = fit.method in TRAINED
        key = (name, place.position, place.read if trained else None, seed, tuple(per.items()))
        if key not in self._sets:
            usable = [one for one in self._candidates if self._is_usable(one[0], fit, place, per)]
            fitted, held_out = self._dealt(name, fit, usable, seed or 0)
            if not fitted:
                raise StudyError(self._nothing(name, place, per))
            self._sets[key] = self._set(fit, fitted, held_out if trained else [])
        return self._sets[key]

    def _dealt(
        self, name: str, fit: Fit, usable: Sequence[tuple[Input, str]], seed: int
    ) -> tuple[list[tuple[Input, str]], list[tuple[Input, str]]]:
        """The usable pairs that are fitted, and those that are held out."""
        prompts = [(one.tokens["base"], *_source(one, fit)) for one, _ in usable]
        if fit.where is not None:
            inside = [n for n, (one, _) in enumerate(usable) if one.given in self._meeting[name]]
            others = [n for n in range(len(usable)) if usable[n][0].given not in self._meeting[name]]
            free = apart([prompts[n] for n in inside], [prompts[n] for n in others])
            return [usable[n] for n in inside], [usable[others[n]] for n in free]
        if fit.method not in TRAINED:
            return list(usable), []
        kept, held = split(prompts, [key for _, key in usable], seed)
        return [usable[n] for n in kept], [usable[n] for n in held]

    def _set(
        self, fit: Fit, fitted: Sequence[tuple[Input, str]], held_out: Sequence[tuple[Input, str]]
    ) -> FitPairs:
        classes = tuple(self._classes(one) for one, _ in fitted) if fit.method in _BY_CLASS else ()
        if not any(name for pair in classes for name in pair):
            classes = ()
        return FitPairs(
            fitted=tuple(one.given for one, _ in fitted),
            held_out=tuple(one.given for one, _ in held_out[:MOST_HELD_OUT]),
            classes=classes,
            digest=content_id("fit pairs", [[key for _, key in fitted], classes]).hex,
        )

    def _classes(self, one: Input) -> tuple[str | None, str | None]:
        found = (self.rows[one.given].get(column) for column in _CLASSES)
        base, source = (None if value is None else str(value) for value in found)
        return base, source

    def _is_usable(self, one: Input, fit: Fit, place: FitPlace, per: Mapping[str, Scalar]) -> bool:
        """Whether a pair has what the fit looks at."""
        row = self.rows[one.given]
        if row.get(VARIABLE) != per.get(VARIABLE):
            return False
        if any(row.get(column) != value for column, value in per.items()):
            return False
        runs = looked_at(fit.method, _of(fit), one.tokens)
        found = [_tokens(one, run, place.position) for run in runs]
        if None in found:
            return False
        if fit.method not in TRAINED:
            return True
        read = _tokens(one, "base", (place.read,))
        is_even = len({len(tokens or ()) for tokens in found}) == 1
        return is_even and bool(one.label_ids) and read is not None and len(read) == 1

    def _nothing(self, name: str, place: FitPlace, per: Mapping[str, Scalar]) -> str:
        needs = "the runs and positions it looks at, and a label where it is trained on one"
        where = f" with {', '.join(f'{key} = {value!r}' for key, value in per.items())}" if per else ""
        at = ", ".join(map(str, place.position))
        return (
            f"fits.{name}: none of the {len(self.inputs):,} pairs{where} can be fitted at {place.site}, "
            f"position {at}: a pair has to meet its where, and to have {needs}"
        )

    @cached_property
    def _runs(self) -> Sequence[str]:
        """Runs that some of the pairs have."""
        return tuple(dict.fromkeys(run for one in self.inputs for run in one.tokens))

    @cached_property
    def _weights(self) -> "Mapping[str, Weights]":
        return weights_of(self.study)

    @cached_property
    def _candidates(self) -> list[tuple[Input, str]]:
        """The lane's pairs with their ids, each once for a variable, in the order of the ids."""
        found = {
            (self.pair_id(one).hex, str(self.rows[one.given].get(VARIABLE))): one
            for one in reversed(self.inputs)
        }
        return [(found[key], key[0]) for key in sorted(found)]

    @cached_property
    def _meeting(self) -> dict[str, set[int]]:
        """For each fit with a ``where`` the given pairs that meet it."""
        fits = self.study.fits or {}
        passing = passing_blocks(
            self.rows, [fit.where for fit in fits.values()], [f"fits.{name}" for name in fits]
        )
        return {
            name: {given for given, found in enumerate(passing) if number in found}
            for number, name in enumerate(fits)
        }


def _spec(fit: Fit, place: FitPlace, rank: object, seed: int | None) -> dict[str, Any]:
    """Spec of a fit without pairs and positions, as plain data: settings that are not used are not there."""
    written = {key: getattr(fit, key) for key in DEFAULTS[fit.method]}
    settings = {key: DEFAULTS[fit.method][key] if value is None else value for key, value in written.items()}
    settings |= {"rank": rank, "seed": seed, "by_position": PER_POSITION in (settings.pop("per", None) or ())}
    where = {"site": place.site, "layer": place.layer, "heads": place.heads}
    used = {key: value for key, value in settings.items() if value is not None and value is not False}
    return {"method": fit.method, **where, **used}


def _of(fit: Fit) -> str | None:
    found: str | None = fit.of or DEFAULTS[fit.method].get("of")
    return found


def _source(one: Input, fit: Fit) -> list[Prompt]:
    """The prompt that values come from, where it is another one than the base's."""
    run = _of(fit) or "source"
    return [one.tokens[run]] if run in one.tokens else []


def _tokens(one: Input, run: str, position: WrittenPosition) -> tuple[int, ...] | None:
    """The tokens of a run that a position means; None where the pair has no such run or token."""
    if run not in one.tokens:
        return None
    return tokens_at(position, len(one.tokens[run]), one.spans.get(run, {}))


def _seeds(fit: Fit) -> Sequence[int] | None:
    """The fit's own axis of seeds."""
    if not isinstance(fit.seeds, str):
        return fit.seeds
    found = parse_range(fit.seeds)
    assert found is not None
    return found.indices(2**63, lambda name: 0)


def _seed(fit: Fit, names: Names) -> int:
    """The fit's own seed, or that of the point; 0 where neither is said."""
    return fit.seed if fit.seed is not None else int(names.get("seed") or 0)
