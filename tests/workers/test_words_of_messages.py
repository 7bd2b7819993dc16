"""Promise: messages count and name things in good grammar, and find the name that was meant."""

import pytest

from workers.errors import article, counted, nearest


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (counted(0, "job"), "0 jobs"),
        (counted(1, "job"), "1 job"),
        (counted(2_000, "cell"), "2,000 cells"),
        (counted(1, "study", "studies"), "1 study"),
        (counted(3, "study", "studies"), "3 studies"),
        (article("int"), "an int"),
        (article("str"), "a str"),
        (article("unit"), "a unit"),
        (article("unknown name"), "an unknown name"),
        (article("hour"), "an hour"),
    ],
)
def test_nouns_are_counted_and_have_their_article(said: str, text: str) -> None:
    assert said == text


@pytest.mark.parametrize(
    ("given", "allowed", "meant"),
    [
        ("dsa", ("sae", "das"), "das"),
        ("stie", ("step", "site"), "site"),
        ("LAYER", ("layer", "label"), "layer"),
        ("both", ("both_correct", "none"), "both_correct"),
        ("layr", ("label", "layer"), "layer"),
        ("x" * 100_000, ("layer",), ""),
        ("something", ("layer",), ""),
    ],
)
def test_the_nearest_name_is_offered(given: str, allowed: tuple[str, ...], meant: str) -> None:
    assert nearest(given, allowed) == (f"; did you mean {meant!r}?" if meant else "")
