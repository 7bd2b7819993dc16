"""Promise: a column that is nearly called as ours is refused with ours; every other name is a user's own."""

import pytest

from studies.names import problems_of_names


@pytest.mark.parametrize(
    ("names", "wrong", "wanted"),
    [
        (["base", " label"], " label", "'label'"),
        (["base", "Label"], "Label", "'label'"),
        (["base", "labels"], "labels", "'label'"),
        (["base", "lable"], "lable", "'label'"),
        (["base", "base_lable"], "base_lable", "'base_label'"),
        (["base", "baselabel"], "baselabel", "'base_label'"),
        (["base", "source.label"], "source.label", "'source_label'"),
        (["base", "l\u0430bel"], "l\u0430bel", "'label'"),
        (["base", "label\u200b"], "label\u200b", "'label'"),
        (["base", "ｓource"], "ｓource", "'source'"),
        (["base", "surce"], "surce", "'source'"),
        (["base", "source", "source_1"], "source_1", "'source'"),
        (["base", "source", "source2"], "source2", "'source_2'"),
        (["base_ids", "source_id"], "source_id", "'source_ids'"),
        (["base", "Split"], "Split", "'split'"),
        (["base", "spans.x"], "spans.x", "'span.x'"),
        (["base", "base.span.x"], "base.span.x", "'span.x'"),
        (["base", "Source2.span.x"], "Source2.span.x", "'source_2.span.x'"),
        (["base", "span.the city"], "span.the city", "'span.the_city'"),
        (["base", "Label.x"], "Label.x", "'label.x'"),
    ],
)
def test_a_name_that_is_nearly_ours_is_refused_with_ours(names: list[str], wrong: str, wanted: str) -> None:
    ((name, text),) = problems_of_names(names)
    assert name == wrong
    assert f"did you mean {wanted}" in text
    assert ascii(wrong) in text


@pytest.mark.parametrize(
    "names",
    [
        ["base", "source", "label", "labels", "lable", "label_2"],
        ["base", "case", "table", "level", "mask", "course", "answer", "base.length", "scan.x"],
        ["base", "base_id", "iia", "layer", "study", "Unnamed: 0", "__index_level_0__"],
        ["base_embeds", "source_3_ids", "source_12.span.a-b", "label.x+S", "base_class", "task"],
    ],
)
def test_other_names_are_users_own(names: list[str]) -> None:
    assert problems_of_names(names) == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["", "base"], "column 1 has no name"),
        (["base", " \u200b"], r"column 2 has no name (' \u200b')"),
        (["base", "x", "base"], "the name 'base' is there twice, in columns 1 and 3"),
        (["base", "kind", "Kind "], "columns 2 and 3 are called 'kind' and 'Kind '"),
        (["base", "\u00e9", "e\u0301"], r"columns 2 and 3 are called '\xe9' and 'e\u0301'"),
        (["base", "\ufb01", "fi"], r"columns 2 and 3 are called '\ufb01' and 'fi'"),
        (["base", 3], "the column name 3 is no text"),
    ],
)
def test_names_that_do_not_tell_columns_apart_are_refused(names: list[object], message: str) -> None:
    assert message in problems_of_names(names)[0][1]
