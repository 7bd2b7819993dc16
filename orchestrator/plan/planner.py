"""Planning with everything it touches: model references, tokenisers, given pairs, the earlier plan."""

__all__ = ["Draft", "Planner"]

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from orchestrator.plan.autoencoders import weights_of
from orchestrator.plan.baseline_runs import BaselineScorer, MissingRunsError, runs_table
from orchestrator.plan.build import LaneInputs, build_plan, with_notes
from orchestrator.plan.load_pairs import GivenPairs, read_given
from orchestrator.plan.model_reports import known_modules
from orchestrator.plan.pair_classes import classify
from orchestrator.plan.plot_checks import check_plots, plot_notes
from orchestrator.plan.prepare import Prepared, prepare
from orchestrator.plan.previous_plan import PreviousPlan, earlier_inputs, earlier_of
from orchestrator.plan.screening import CellChoice
from orchestrator.plan.tables import PLAN_FORMAT, Lane, Plan
from orchestrator.plan.token_text import TokenText
from orchestrator.plan.trainings import TrainingPlan, trainings_of, trainings_table
from orchestrator.store import State
from orchestrator.store.study_dirs import DEFAULT_ROOT, home_of
from orchestrator.trust import allowed
from studies import Study
from studies.language.functions import check_functions, functions_of, model_folder, named_in, names_columns
from studies.language.identity import content_id, lane_identity
from studies.language.results import metric_families
from studies.load import check_supported
from workers.errors import ModelError, StudyError
from workers.model.facts import ModelFacts
from workers.vocabulary import ModelSpec


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan that is not committed yet."""

    plan: Plan
    exact: bool
    """Whether the pairs went through their filter; otherwise the number of jobs is an upper bound."""
    complete: bool
    """Whether the unintervened runs are in it, so that it can be committed and run."""


class Planner:
    """Plans one study; what it needs is read once, however often `draft` is called."""

    def __init__(self, study: Study, *, store: Path = DEFAULT_ROOT, say: Callable[[str], None]) -> None:
        """`store` is the folder of all studies, `say` gets lines of progress.

        Raises:
            NotYetError: the study needs what this version cannot do.
            StudyError: it trains, or names, what cannot be.
        """
        self._say = say
        with _placed(study):
            check_supported(study)
            self._functions = functions_of(study)
            check_functions(self._functions, study.code)
            self.trainings = TrainingPlan(study, lambda name: trainings_of(home_of(store, name)), say)
        self.study = self.trainings.study
        self._written = study
        self._known_words: dict[str, TokenText] = {}
        self._told_long: set[str] = set()

    @cached_property
    def models(self) -> Sequence[tuple[ModelSpec, ModelFacts]]:
        """Each model of the study with its facts; fetched where it is not on this machine.

        Raises:
            ModelError: a model cannot be found.
        """
        with _placed(self._written):
            return [(spec, self.trainings.facts(spec)) for spec in self.study.lanes()]

    @property
    def trained_paths(self) -> list[str]:
        """The trainings whose models are swept, as lanes name them, each once."""
        found = (self.trainings.of(spec) for spec in self.study.lanes())
        return list(dict.fromkeys(one.path for one in found if one is not None))

    @cached_property
    def given(self) -> GivenPairs:
        """The pairs as given, before any model has seen them.

        Raises:
            StudyError: they cannot be read or made.
        """
        with _placed(self._written):
            return read_given(self.study, self.trainings.reads, self._say)

    @cached_property
    def digest(self) -> str:
        """Names all that a plan is made of: a committed plan with this digest is the same plan."""
        # The pairs are in the inputs already; written out as YAML they would take seconds.
        study = self._written.model_copy(update={"pairs": None}).to_yaml()
        made_of: dict[str, object] = {"inputs": self._inputs_id, "study": study, "format": PLAN_FORMAT}
        if self.trainings.own:
            made_of["trainings"] = [one.identity for one in self.trainings.own]
        if weights := weights_of(self.study):
            made_of["weights"] = {name: one.to_json() for name, one in weights.items()}
        return str(content_id("plan", made_of))

    @cached_property
    def _inputs_id(self) -> str:
        """Names all that the inputs are made of."""
        models = [lane_identity(facts, spec) for spec, facts in self.models]
        settings = [self.given.filter, self.given.aligned, self.given.num_pairs, self.study.label_tokens]
        return str(content_id("inputs", [models, settings, self.given.digest]))

    def draft(
        self,
        scorer: BaselineScorer,
        earlier: Plan | None = None,
        state: State | None = None,
        trained: Collection[str] = (),
        selection: Mapping[int, CellChoice] | None = None,
    ) -> Draft:
        """The plan, as exact as `scorer` can tell.

        `earlier` is the study's committed plan and `state` what is done of it: numbers, kept pairs and
        tiles go on. `trained` are the trainings, as lanes name them, that are done: of other lanes that are
        trained nothing is asked that only the model can tell. `selection` is what was selected of the
        cells of a screened study.

        Raises:
            StudyError: the study cannot be planned.
        """
        with _placed(self._written):
            return self._drafted(scorer, earlier, state, trained, selection)

    def _drafted(
        self,
        scorer: BaselineScorer,
        earlier: Plan | None,
        state: State | None,
        trained: Collection[str],
        selection: Mapping[int, CellChoice] | None,
    ) -> Draft:
        before = earlier_of(earlier, state)
        lanes = self._lanes(before)
        try:
            prepared = [
                self._prepare(lane, facts, scorer if _is_there(lane, trained) else None, earlier)
                for lane, facts in lanes
            ]
        except MissingRunsError:
            guesses = [self._prepare(lane, facts, None, None) for lane, facts in lanes]
            return Draft(self._build(lanes, guesses, before, None), exact=False, complete=False)
        plan = self._build(lanes, prepared, before, selection)
        try:
            runs = runs_table(plan, scorer, earlier, [lane for lane, _ in lanes if _is_there(lane, trained)])
        except MissingRunsError:
            return Draft(plan, exact=True, complete=False)
        tables = {**plan.tables, "runs": runs, "tokens": self._tokens(lanes)}
        head = {**plan.head, "trained": [lane.training for lane, _ in lanes if lane.training in trained]}
        return Draft(replace(plan, head=head, tables=tables), exact=True, complete=True)

    def _lanes(self, before: PreviousPlan) -> list[tuple[Lane, ModelFacts]]:
        """A lane for each model; one that the store already has keeps its number."""
        numbers = dict(before.lane_numbers)
        lanes: list[tuple[Lane, ModelFacts]] = []
        for spec, facts in self.models:
            identity = lane_identity(facts, spec)
            if any(lane.identity == identity for lane, _ in lanes):
                raise StudyError(
                    f"models: {spec.ref} is there twice, as far as results go (the same weights and dtype);"
                    " name it once"
                )
            lane = Lane(
                lane=numbers.setdefault(identity, len(numbers)),
                spec=spec.model_copy(update={"revision": facts.revision}),
                identity=identity,
                num_parameters=facts.num_parameters,
                training=None if (planned := self.trainings.of(spec)) is None else planned.path,
            )
            lanes.append((lane, facts))
        return lanes

    def _prepare(
        self, lane: Lane, facts: ModelFacts, scorer: BaselineScorer | None, earlier: Plan | None
    ) -> Prepared:
        """The lane's inputs; those that were committed are not asked of the model again."""
        if earlier is not None and _has_inputs(earlier, lane) and earlier.head["inputs"] == self._inputs_id:
            return earlier_inputs(earlier, lane.lane)
        found = prepare(
            self.given.rows,
            lane,
            facts,
            self._words(facts).tokenizer,
            scorer,
            filter=self.given.filter,
            aligned=self.given.aligned,
            num_pairs=self.given.num_pairs,
            label_tokens=self.study.label_tokens,
            labels_differ=self.given.labels_differ and facts.num_classes is None,
        )
        self._tell_long(lane, facts, found.num_long)
        return found

    def _tell_long(self, lane: Lane, facts: ModelFacts, num_long: int) -> None:
        """Say once of a model that prompts are longer than those it was trained with."""
        if num_long and lane.identity not in self._told_long:
            self._told_long.add(lane.identity)
            which = "1 prompt is" if num_long == 1 else f"{num_long:,} prompts are"
            self._say(
                f"warning: {which} longer than the {facts.max_positions:,} positions that"
                f" {lane.spec.ref} was trained for (max_position_embeddings); it runs them, and its answers"
                " may be poor"
            )

    def _build(
        self,
        lanes: Sequence[tuple[Lane, ModelFacts]],
        prepared: Sequence[Prepared],
        before: PreviousPlan,
        selection: Mapping[int, CellChoice] | None,
    ) -> Plan:
        brought = [
            LaneInputs(
                lane=lane,
                facts=facts,
                model=model,
                inputs=one.inputs,
                classes=classify(self.study, self.given.rows, one),
                modules=partial(self._modules, lane, facts),
            )
            for (lane, facts), (model, _), one in zip(lanes, self.models, prepared, strict=True)
        ]
        head = {
            "study": self.study.study,
            "version": version("swapyard"),
            "digest": self.digest,
            "inputs": self._inputs_id,
            "lanes": [lane.to_json() for lane, _ in lanes],
            "lane_numbers": before.lane_numbers | {lane.identity: lane.lane for lane, _ in lanes},
            "prompts": [one.prompts for one in prepared],
            "filter": self.given.filter,
        }
        if (folder := model_folder(self.study)) is not None:
            # Pictures of its causal model are drawn from wherever somebody stands.
            head["code"] = str(folder)
        if self.study.screen is not None:
            head["screen"] = self.study.screen.model_dump()
        plan = build_plan(
            self.study,
            brought,
            self.given.rows,
            families=metric_families(self.study.metrics, is_screened=self.study.screen is not None),
            earlier=before,
            head=head,
            base_tokens={
                (lane.lane, one.given): self._words(facts).of(one.tokens["base"])
                for (lane, facts), prepared_lane in zip(lanes, prepared, strict=True)
                for one in prepared_lane.kept
            },
            selection=selection,
        )
        if names_columns(self.study):
            more = [one for one in named_in(plan.cells.values()) if one not in self._functions]
            check_functions(more, self.study.code)
            allowed(self.study.code, [name for name, _ in more])
        own, others = self.trainings.own, self.trainings.others
        if own or others:
            plan = replace(plan, tables={**plan.tables, "trainings": trainings_table(own, others)})
        check_plots(self._written, plan, self.study.study)
        return with_notes(plan, self.study, plot_notes(self._written, plan))

    def _modules(self, lane: Lane, facts: ModelFacts) -> Collection[str] | None:
        """The paths of a model's modules; nobody knows those of one that is still to be trained."""
        return None if lane.training is not None else known_modules(lane.spec, facts, self._say)

    def _words(self, facts: ModelFacts) -> TokenText:
        if facts.revision not in self._known_words:
            self._known_words[facts.revision] = TokenText(facts)
        return self._known_words[facts.revision]

    def _tokens(self, lanes: Sequence[tuple[Lane, ModelFacts]]) -> pa.Table:
        texts = [(lane.lane, self._words(facts).answers) for lane, facts in lanes]
        return pa.table(
            {
                "lane": pa.array([lane for lane, found in texts for _ in found], pa.uint16()),
                "id": pa.array([number for _, found in texts for number in range(len(found))], pa.int32()),
                "token": pa.array([text for _, found in texts for text in found], pa.string()),
            }
        )


def _is_there(lane: Lane, trained: Collection[str]) -> bool:
    """Whether a lane's model can be run."""
    return lane.training is None or lane.training in trained


def _has_inputs(earlier: Plan, lane: Lane) -> bool:
    """Whether the inputs of a lane in an earlier plan went through the study's filter."""
    return earlier.head["filter"] is None or _is_there(lane, earlier.head.get("trained", ()))


@contextmanager
def _placed(study: Study) -> Iterator[None]:
    """Within it, what is refused of `study` says in which file and line it stands, where that is known.

    Every error of planning begins with what it is about, as the study writes it (``BLOCK: layer …``,
    ``fits.NAME: …``), so that one place finds the lines of all.
    """
    try:
        yield
    except (StudyError, ModelError) as error:
        first, *others = str(error).split("\n")
        lines = [_with_line(study, first, always=True)]
        lines += [_with_line(study, line, always=False) for line in others]
        error.args = ("\n".join(lines),)
        raise


def _with_line(study: Study, said: str, *, always: bool) -> str:
    """A line of an error after the place in the file that it is about, if any; `always` at least the file."""
    if isinstance(study.pairs, str) and said.startswith(f"{study.pairs}:"):
        return said
    place = study.place_of(said)
    return said if place is None or not (always or study.is_about(said)) else f"{place}: {said}"
