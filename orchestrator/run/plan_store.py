"""The committed plan of a study that is about to run: the one that is there, or a new one."""

__all__ = ["commit_plan", "commit_selection", "num_open", "refuse_stranger"]

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from orchestrator.faults import reach
from orchestrator.plan.baseline_runs import BaselineScorer
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.remaining import counts_of
from orchestrator.plan.running_shares import lane_facts
from orchestrator.plan.screening import CellChoice
from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.run.baseline_scorers import CachedScorer, ChildScorer, EngineScorer, kept_runs
from orchestrator.run.device_setup import RunOptions, Setup, set_up, threads_here
from orchestrator.run.engines import Engines
from orchestrator.run.remade import mend_plan
from orchestrator.run.trained import trained_of
from orchestrator.stages.contract import Planned
from orchestrator.stages.estimate.selection import select
from orchestrator.stages.sweep.work import ESTIMATES_PER_PAIR, open_work
from orchestrator.store import Driver, State, StudyStore
from studies import Study
from workers.errors import StoreError
from workers.model.facts import ModelFacts


def commit_plan(
    study: Study, store: StudyStore, driver: Driver, options: RunOptions, say: Callable[[str], None]
) -> Planned:
    """Plan `study` and commit the plan, unless it is the one that the store has.

    Raises:
        StudyError, ModelError: the study cannot be planned.
        StoreError: the folder holds results of which the plan wants none, and ``replace`` is not given; or
            the committed plan is damaged, and cannot be made again.
    """
    planner = Planner(study, store=store.root.parent, say=say)
    trained = trained_of(store.root, planner.trained_paths)

    def draft_of(
        earlier: Plan | None, state: State, selection: Mapping[int, CellChoice] | None = None
    ) -> Plan:
        return _drafted(planner, store, state, options, earlier, trained, say, selection).draft.plan

    ref = mend_plan(study, store, driver, draft_of, say)
    earlier = read_plan(store, ref) if ref is not None else None
    if ref is not None and earlier is not None and _is_the_same(earlier, planner, trained):
        facts = lane_facts(earlier, planner.models)
        setup = _set_up(earlier, driver.state, facts, options)
        return Planned(ref, earlier, setup, _engines(setup, store), facts, is_new=False)
    made = _drafted(planner, store, driver.state, options, earlier, trained, say)
    if earlier is not None and driver.state.live and not options.replace:
        refuse_stranger(made.draft.plan, earlier, store)
    files = {**encode_plan(made.draft.plan), "study.yaml": study.to_yaml().encode()}
    reach("driver.plan")
    ref = driver.write_plan(files)
    return Planned(ref, made.draft.plan, made.setup, made.engines, made.facts, is_new=True)


class _Drafted(NamedTuple):
    """A plan that is not committed, and what making it needed."""

    draft: Draft
    setup: Setup
    engines: Engines
    facts: Mapping[int, ModelFacts]


def _drafted(
    planner: Planner,
    store: StudyStore,
    state: State,
    options: RunOptions,
    earlier: Plan | None,
    trained: Collection[str],
    say: Callable[[str], None],
    selection: Mapping[int, CellChoice] | None = None,
) -> _Drafted:
    """The plan that goes on from `earlier` and `state`; the model is asked only what nobody knows yet."""
    draft = planner.draft(CachedScorer(kept_runs(), None), earlier, state, trained, selection)
    facts = lane_facts(draft.plan, planner.models)
    setup = _set_up(draft.plan, state, facts, options)
    engines = _engines(setup, store)
    if not draft.complete:
        say("running the prompts without interventions")
        with _scorer(setup, engines, store, threads_here(options.threads), say) as scorer:
            draft = planner.draft(scorer, earlier, state, trained, selection)
    return _Drafted(draft, setup, engines, facts)


def commit_selection(
    planned: Planned,
    study: Study,
    store: StudyStore,
    driver: Driver,
    options: RunOptions,
    say: Callable[[str], None],
) -> Planned:
    """Select which cells of a screened study run, now that all of its estimates are committed.

    What is selected hangs on the committed estimates and the study alone, and is committed as a plan: a run
    that is killed before selects the same, and one that is killed after goes on with it.

    Raises:
        StoreError: a file of rows is missing or damaged.
    """
    selection = select(planned.plan, driver.state, store, study)
    planner = Planner(study, store=store.root.parent, say=say)
    trained = trained_of(store.root, planner.trained_paths)
    draft = planner.draft(CachedScorer(kept_runs(), None), planned.plan, driver.state, trained, selection)
    files = {**encode_plan(draft.plan), "study.yaml": study.to_yaml().encode()}
    reach("driver.plan")
    facts = lane_facts(draft.plan, planner.models)
    setup = _set_up(draft.plan, driver.state, facts, options)
    engines = planned.engines if setup.executor == planned.setup.executor else _engines(setup, store)
    return Planned(driver.write_plan(files), draft.plan, setup, engines, facts, is_new=True)


def refuse_stranger(plan: Plan, earlier: Plan, store: StudyStore) -> None:
    """A plan that has no job in common with what was done is a mistake more often than a wish."""
    if not any(tile.wanted for number, tile in plan.tiles.items() if number in earlier.tiles):
        raise StoreError(
            f"{store.root} holds results of another study {plan.head['study']!r}: no job of theirs is in this"
            " one. Rename the study, take another folder with --store, or go on there with --replace (the"
            " results stay on the disk, and the views no longer show them)"
        )


def _set_up(plan: Plan, state: State, facts: Mapping[int, ModelFacts], options: RunOptions) -> Setup:
    """Set-up for the rest of a plan: of its open jobs only those that cannot be filled in take time."""
    work = open_work(plan, state, facts)
    every = sum(one.cost_of(plan.costs[plan.tiles[one.tile].cellset]) for one in work if not one.estimates)
    share = sum(one.cost for one in work if not one.estimates) / every if every else 1.0
    return set_up(plan, num_open(plan, state), options, share=share)


def num_open(plan: Plan, state: State) -> int:
    """The jobs that remain, or as many as the estimates that remain are worth."""
    if plan.is_selected:
        return counts_of(plan, state).num_open
    return int(ESTIMATES_PER_PAIR * sum(work.num_pairs for work in open_work(plan, state)))


def _is_the_same(earlier: Plan, planner: Planner, trained: Collection[str]) -> bool:
    """Whether a plan is the one that would be made now; after models are trained it is made once more."""
    return earlier.head["digest"] == planner.digest and set(earlier.head.get("trained", ())) == set(trained)


def _engines(setup: Setup, store: StudyStore) -> Engines:
    return replace(setup.engines, root=store.root.resolve())


@contextmanager
def _scorer(
    setup: Setup, engines: Engines, store: StudyStore, threads: int, say: Callable[[str], None]
) -> Iterator[BaselineScorer]:
    """Scores in this process where the jobs will run here too, otherwise in a child that goes away."""
    if setup.executor == "inline":
        yield CachedScorer(kept_runs(), EngineScorer(engines), say)
        return
    with ChildScorer(threads=threads, root=store.root.resolve()) as child:
        yield CachedScorer(kept_runs(), child, say)
