"""The pairs of a causal task: inputs drawn, and what the model says of each after an interchange."""

__all__ = ["Counterfactuals"]

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from studies.tasks.written import Texts, written_inputs
from workers.causal.model import CausalModel, Values
from workers.causal.sampling import SPLITS, Sampler
from workers.errors import StudyError

_COUNTS = ("num_train", "num_test")
_MOST_STALE = 8
"""Draws of thousands of pairs that may bring nothing new before all pairs are taken to be there."""


class Counterfactuals:
    """The pairs of one model under one set of options."""

    def __init__(self, model: CausalModel, seed: int, options: Mapping[str, Any]) -> None:
        self._model = model
        self._seed = seed
        self._options = options
        self._num_sources = _count(options, "num_sources", 1)
        self._runs = [
            "base",
            *(f"source_{n}" if n > 1 else "source" for n in range(1, self._num_sources + 1)),
        ]
        self._output = str(options.get("output", model.outputs[0]))
        self._domain = model.domain(self._output)
        self._swaps = self._read_swaps()
        self._texts = self._read_texts()
        form = str(options.get("form", "ids" if self._texts is None else "text"))
        width = _count(options, "width", 1) if "width" in options else None
        self._written = written_inputs(model, form, width, self._texts)

    def rows(self) -> Iterator[Mapping[str, object]]:
        """Pair after pair, none twice.

        Raises:
            StudyError: there are fewer than ``num_train`` or ``num_test``.
        """
        streams = {split: self._split_rows(split) for split in SPLITS}
        if any(name in self._options for name in _COUNTS):
            wanted = {split: _count(self._options, f"num_{split}", 0) for split in SPLITS}
            for split in SPLITS:
                yield from self._exactly(wanted[split], split, streams[split])
            return
        share, number = self._share(), 0
        while streams:
            # Tests come evenly among the others, so that any first pairs hold their share of them.
            split = SPLITS[int((number + 1) * share) > int(number * share)]
            stream = streams.get(split) or next(iter(streams.values()))
            row = next(stream, None)
            if row is None:
                streams = {name: left for name, left in streams.items() if left is not stream}
            else:
                number += 1
                yield row

    def _exactly(
        self, num: int, split: str, stream: Iterator[Mapping[str, object]]
    ) -> Iterator[Mapping[str, object]]:
        for number in range(num):
            row = next(stream, None)
            if row is None:
                raise StudyError(f"num_{split} {num}; there are only {number} pairs in {split}")
            yield row

    def _split_rows(self, split: str) -> Iterator[Mapping[str, object]]:
        seen: set[bytes] = set()
        stale = 0
        for runs in self._sampler(split).chunks(self._num_sources):
            stacked = np.stack([run[name] for run in runs for name in self._model.inputs], -1)
            fresh = [at for at, pair in enumerate(stacked) if _is_new(pair.tobytes(), seen)]
            stale = 0 if fresh else stale + 1
            if stale == _MOST_STALE:
                return
            yield from self._chunk_rows([{n: v[fresh] for n, v in run.items()} for run in runs], split)

    def _chunk_rows(self, runs: Sequence[Values], split: str) -> Iterator[Mapping[str, object]]:
        """A row for each pair, from all of them at once."""
        model = self._model
        clean = dict(zip(self._runs, (model.run(run) for run in runs), strict=True))
        swapped = {
            name: model.interchange(runs[0], {v: runs[self._runs.index(run)] for v, run in swap.items()})
            for name, swap in self._swaps.items()
        }
        labels = {f"{run}_label": self._labels(clean[run]) for run in self._runs[:2]}
        labels |= {f"label.{name}": self._labels(after) for name, after in swapped.items()}
        if len(swapped) == 1:
            labels["label"] = next(reversed(labels.values()))
        values = {f"{run}.{name}": ran[name].tolist() for run, ran in clean.items() for name in ran}
        inputs = [list(zip(*(run[name].tolist() for name in model.inputs), strict=True)) for run in runs]
        for at in range(len(inputs[0])):
            row: dict[str, object] = {}
            for run, given in zip(self._runs, inputs, strict=True):
                row |= self._written.columns(run, given[at])
            yield {
                **row,
                **{name: column[at] for name, column in labels.items()},
                **{name: column[at] for name, column in values.items()},
                "split": split,
            }

    def _labels(self, ran: Values) -> list[object]:
        """Answers: the number of the output's value in its domain, or text."""
        if self._texts is None:
            return [int(number) for number in np.searchsorted(self._domain, ran[self._output])]
        names = list(ran)
        columns = zip(*(ran[name].tolist() for name in names), strict=True)
        return [self._texts.answer(dict(zip(names, values, strict=True))) for values in columns]

    def _sampler(self, split: str) -> Sampler:
        differ = self._names("differ")
        return Sampler(
            model=self._model,
            seed=self._seed,
            balance=self._names("balance"),
            where=(lambda *runs: _differ(runs, differ)) if differ else None,
            split=split,
            test_share=self._share(),
            split_seed=_count(self._options, "split_seed", 0, least=0),
        )

    def _share(self) -> float:
        share = self._options.get("test_share", 0.2)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise StudyError(f"test_share {share!r}; give a number between 0 and 1")
        return float(share)

    def _names(self, key: str) -> tuple[str, ...]:
        given = self._options.get(key, ())
        names = (given,) if isinstance(given, str) else tuple(given)
        for name in names:
            self._model.ancestors(name)
        return names

    def _read_swaps(self) -> dict[str, dict[str, str]]:
        """Interchanges by the name of their label: variables, and the sources of their values."""
        every = [name for name in self._model.variables if name != self._output]
        given = self._options.get("variables", every)
        found: dict[str, dict[str, str]] = {}
        for one in (given,) if isinstance(given, str) else given:
            names = (one,) if isinstance(one, str) else tuple(one)
            swap = dict(one) if isinstance(one, Mapping) else dict.fromkeys(names, "source")
            for name, run in swap.items():
                self._model.ancestors(name)
                if run not in self._runs[1:]:
                    raise StudyError(f"{name!r} from {run!r}; sources are {', '.join(self._runs[1:])}")
            found["+".join(swap)] = swap
        return found

    def _read_texts(self) -> Texts | None:
        options = self._options
        if "text" not in options:
            return None
        answer = options.get("answer", f" {{{self._output}}}")
        words = options.get("words", {})
        if not isinstance(words, Mapping):
            raise StudyError(f"words {words!r}; give a mapping from variables to the words of their values")
        return Texts(self._model, options["text"], answer, words)


def _differ(runs: Sequence[Values], names: Sequence[str]) -> Any:
    """A mask of the pairs in which every source differs from the base in every one of `names`."""
    base, *sources = runs
    return np.logical_and.reduce([base[name] != source[name] for source in sources for name in names])


def _is_new(pair: bytes, seen: set[bytes]) -> bool:
    if pair in seen:
        return False
    seen.add(pair)
    return True


def _count(options: Mapping[str, object], key: str, default: int, *, least: int | None = None) -> int:
    value = options.get(key, default)
    least = min(default, 1) if least is None else least
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StudyError(f"{key} {value!r}; give a whole number from {least}")
    return value
