"""Promise: a fit's identity is all that it is made of and nothing else, and never needs the model."""

import uuid
from typing import Any

import pytest

from orchestrator.plan.fits import LaneFits
from orchestrator.plan.prepare import Input
from studies import Study
from studies.language.fits import Fit
from studies.language.values import MEAN, RANK, FitPlace
from workers.errors import StudyError

PLACE = FitPlace(site="block_output", layer=1, heads=None, position=(-1,), read=-1)
ROWS = [{"split": "train" if n < 4 else "test", "template": "ab"[n % 2]} for n in range(6)]


def given(number: int, **changes: Any) -> Input:
    """A pair whose base is longer the later it comes."""
    tokens = {"base": tuple(range(number + 2)), "source": (100 + number, 7, 8)}
    return Input(number, **{"tokens": tokens, "label_ids": (3,), "spans": {"base": {"x": (0, 1)}}, **changes})


def lane(
    inputs: list[Input] | None = None, rows: list[Any] = ROWS, model: str = "{}", **fits: Any
) -> LaneFits:
    study = Study(
        study="s",
        model="gpt2",
        pairs=[{"base": "a"}],
        site="block_output",
        layer=0,
        position=0,
        fits=fits,
        sweep=[{}],
    )
    found = [given(n) for n in range(6)] if inputs is None else inputs
    return LaneFits(study, 0, model, rows, found, lambda one: uuid.UUID(int=one.given))


def das(**changes: Any) -> Fit:
    return Fit(**{"method": "das", "rank": 1, **changes})


def identity(fit: Fit, place: FitPlace = PLACE, names: Any = None, **lane_changes: Any) -> str:
    return lane(R=fit, **lane_changes).identity("R", place, names or {})


def test_what_is_not_said_is_the_default() -> None:
    said = das(num_steps=300, batch_size=32, lr=5e-3, of="source", seed=0)
    assert identity(das()) == identity(said)
    assert len(identity(das())) == 32


def test_the_name_is_no_part_of_it() -> None:
    both = lane(A=das(), B=das())
    assert both.identity("A", PLACE, {}) == both.identity("B", PLACE, {})
    assert {name for _, name in both.made} == {"A", "B"}


@pytest.mark.parametrize(
    "other",
    [
        {"fit": das(rank=2)},
        {"fit": das(lr=0.1)},
        {"fit": das(seed=1)},
        {"fit": das(where="split = 'train'")},
        {"names": {"seed": 1}},
        {"model": '{"revision":"other"}'},
        {"place": FitPlace(site="block_output", layer=2, heads=None, position=(-1,), read=-1)},
        {"place": FitPlace(site="block_output", layer=1, heads=None, position=(0,), read=-1)},
        {"place": FitPlace(site="block_output", layer=1, heads=None, position=(-1,), read=0)},
        {"inputs": [given(n) for n in range(5)]},
    ],
)
def test_whatever_changes_the_numbers_is_part_of_it(other: Any) -> None:
    assert identity(**{"fit": das(where="split IS NOT NULL"), **other}) != identity(
        das(where="split IS NOT NULL")
    )


def test_where_nothing_is_drawn_a_seed_is_no_part_of_it() -> None:
    pca = Fit(method="pca", rank=2)
    assert identity(pca, names={"seed": 1}) == identity(pca)


def test_the_order_of_the_pairs_is_no_part_of_it() -> None:
    turned = lane([given(n) for n in reversed(range(6))], R=das()).identity("R", PLACE, {})
    assert turned == identity(das())


def test_a_random_rotation_is_one_for_all_positions_of_a_site() -> None:
    other = FitPlace(site="block_output", layer=1, heads=None, position=(3,), read=0)
    random = Fit(method="random_rotation", rank=2)
    assert identity(random) == identity(random, other) != identity(das())


def test_pairs_that_lack_what_the_fit_looks_at_are_left_out() -> None:
    fits = lane(
        [*(given(n) for n in range(4)), given(4, label_ids=()), given(5, tokens={"base": (1, 2)})], R=das()
    )
    fits.identity("R", PLACE, {})
    (made,) = fits.made.values()
    assert sorted((*made.pairs.fitted, *made.pairs.held_out)) == [0, 1, 2, 3]
    late = FitPlace(site="block_output", layer=1, heads=None, position=(2,), read=-1)
    fits.identity("R", late, {})
    assert 0 not in (*list(fits.made.values())[1].pairs.fitted,)


def test_held_out_are_the_pairs_of_no_prompt_of_those_to_fit() -> None:
    fits = lane(R=das(where="split = 'train'"))
    fits.identity("R", PLACE, {})
    (made,) = fits.made.values()
    assert (made.pairs.fitted, made.pairs.held_out) == ((0, 1, 2, 3), (4, 5))


def test_a_mean_per_column_is_a_fit_for_each_of_its_values() -> None:
    fits = lane(mu=Fit(method="mean", of="source", per=["template", "position"]))
    found = {name: fits.identity("mu", PLACE, {"pair.template": name}) for name in "ab"}
    assert found["a"] != found["b"]
    made = {tuple(one.per.items()): one for one in fits.made.values()}
    assert made[("template", "a"),].pairs.fitted == (0, 2, 4)
    assert made[("template", "a"),].spec["by_position"] is True


def test_the_mean_needs_no_name() -> None:
    fits = lane()
    fits.identity(MEAN, PLACE, {})
    (made,) = fits.made.values()
    assert (made.spec["method"], made.spec["of"], len(made.pairs.fitted)) == ("mean", "base", 6)


def test_ranks_and_seeds_are_axes() -> None:
    fits = lane(R=das(rank=None, ranks=[1, 2], seeds="0:3"))
    assert fits.axes("R") == {RANK: (1, 2), "seed": (0, 1, 2)}
    assert fits.identity("R", PLACE, {RANK: 2, "seed": 0}) == identity(das(rank=2))


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        (
            das(where="split = 'dev'"),
            "fits.R: none of the 6 pairs can be fitted at block_output, position -1",
        ),
        (das(where="nothing = 1"), "fits.R: where: 'nothing = 1': no column 'nothing'"),
        (
            Fit(method="mean", of="source_9"),
            "fits.R: of: no pair has a run 'source_9'; the pairs have base, source; did you mean 'source'",
        ),
    ],
)
def test_a_fit_without_pairs_is_refused_while_planning(fit: Fit, text: str) -> None:
    with pytest.raises(StudyError, match=text):
        identity(fit)


def test_a_difference_takes_the_classes_of_its_pairs_where_they_have_any() -> None:
    rows = [{**row, "base_class": "f", "source_class": "m"} for row in ROWS]
    fits = lane(rows=rows, v=Fit(method="mean_difference"))
    with_classes = fits.identity("v", PLACE, {})
    (made,) = fits.made.values()
    assert set(made.pairs.classes) == {("f", "m")}
    assert lane(v=Fit(method="mean_difference")).identity("v", PLACE, {}) != with_classes


def test_a_column_of_per_that_no_pair_has_is_refused() -> None:
    said = r"fits\.m: per: no pair has a column 'templat'.*did you mean 'template'"
    with pytest.raises(StudyError, match=said):
        lane(m=Fit(method="mean", per=["templat"])).identity("m", PLACE, {"pair.templat": None})
