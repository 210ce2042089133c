"""Texts that point, family by family: what models write, what breaks off, what lies outside, and what is no answer."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.spatial.pointing.answer import Asked, NotVisible, Pointing, Points, Unparsed
from services.spatial.pointing.families import FAMILIES
from services.spatial.pointing.reading import read_pointing

NOT_VISIBLE = NotVisible()
#: A query that is the second image, and that the processor made 280 x 140 pixels of.
ASKED = Asked(image_index=2, input_size=(280, 140))
#: (0.25, 0.5), as each family writes it.
A_POINT = {
    "roborefer": "[(0.25, 0.5)]",
    "qwen3_vl": '[{"point_2d": [250, 500], "label": "cup"}]',
    "qwen2_5_vl": '[{"point_2d": [70, 70], "label": "cup"}]',
    "glm": "<|begin_of_box|>[[250, 500]]<|end_of_box|>",
    "internvl": "<ref>cup</ref><box>[[150, 400, 350, 600]]</box>",
    "molmo2": '<points coords="2 1 250 500">cup</points>',
    "gemini": '[{"point": [500, 250], "label": "cup"}]',
    # middles of bins: (249.5 + 0.5) / 1000 is the middle of 149 and 350, shifted by half a bin
    "florence2": "cup<loc_149><loc_399><loc_350><loc_600>",
}


def read(family: str, text: str) -> Pointing:
    return read_pointing(text, FAMILIES[family], ASKED)  # type: ignore[index]


def points(family: str, text: str) -> list[tuple[Any, Any]]:
    said = read(family, text)
    assert isinstance(said, Points), said
    return [(pytest.approx(x, abs=1e-12), pytest.approx(y, abs=1e-12)) for x, y in said.points]


def test_every_family_is_tested() -> None:
    assert set(A_POINT) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "  {}\n",
        "```json\n{}\n```",
        "The cup stands by the window: {}.",
        "<think>Is it (0.9, 0.9), or NOT_VISIBLE? [[1, 2]]</think>\n{}",
        "<think>first</think> no, wait <think>\nNOT_VISIBLE\n</think>{}",
        "If it were NOT_VISIBLE I would say so. {}",
    ],
)
def test_a_point_is_read_from_what_stands_around_it(family: str, around: str) -> None:
    assert points(family, around.format(A_POINT[family])) == [(0.25, 0.5)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        "NOT_VISIBLE",
        "not_visible",
        " Not_Visible.\n",
        "**NOT_VISIBLE**",
        "```\nNOT_VISIBLE\n```",
        '["NOT_VISIBLE"]',
        '{"point_2d": "NOT_VISIBLE"}',
        "The answer is NOT_VISIBLE.",
        "Final answer: `NOT_VISIBLE`",
        "<think>It may be at (0.5, 0.5), [[500, 500]].</think>\n\nNOT_VISIBLE",
        "<answer>NOT_VISIBLE</answer>",
        "It is behind the door.\nNOT_VISIBLE",
    ],
)
def test_not_visible_is_an_answer_in_any_case_and_wrapping(family: str, text: str) -> None:
    assert read(family, text) == NOT_VISIBLE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "It would be wrong to say NOT_VISIBLE here.",
        "INVISIBLE",
        "NOT_VISIBLE_AT_ALL",
        "not NOT_VISIBLE",
        "<think>NOT_VISIBLE",
        "<think>{point} or so",
        "{point}\nNOT_VISIBLE",
        "NOT_VISIBLE\n{point}",
        "somewhere",
    ],
)
def test_what_is_no_answer_or_two_is_none(family: str, text: str) -> None:
    said = read(family, text.replace("{point}", A_POINT[family]))
    assert isinstance(said, Unparsed)
    assert said.problem


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [
        # corners and borders, each end of the range
        ("roborefer", "[(1.0, 1.0)]", [(1.0, 1.0)]),
        ("roborefer", "[(0, 1)]", [(0.0, 1.0)]),
        ("qwen3_vl", '{"point_2d": [1000, 0]}', [(1.0, 0.0)]),
        ("qwen2_5_vl", '{"point_2d": [280, 140]}', [(1.0, 1.0)]),
        ("molmo2", '<points coords="2 1 1000 000"/>', [(1.0, 0.0)]),
        # (1, 1) is a corner where 1 is the end, and next to the other one where 1000 is
        ("glm", "[[1, 1]]", [(0.001, 0.001)]),
        # several: all in order
        ("roborefer", "[(0.1, 0.2), (0.3, 0.4)]", [(0.1, 0.2), (0.3, 0.4)]),
        ("roborefer", "[[0.1, 0.2], [0.3, 0.4]]", [(0.1, 0.2), (0.3, 0.4)]),
        ("roborefer", "(0.1, 0.2) or (0.3, 0.4)", [(0.1, 0.2), (0.3, 0.4)]),
        ("roborefer", "near (0.9, 0.9): [(0.1, 0.2)], not [(0.3, 0.4)]", [(0.1, 0.2)]),
        ("qwen3_vl", '[{"bbox_2d": [0, 100, 200, 300]}, {"point_2d": [1, 2]}]', [(0.1, 0.2), (0.001, 0.002)]),
        ("qwen3_vl", "[{'point_2d': [ 1.5 , 2e1 ]}]", [(0.0015, 0.02)]),
        ("qwen2_5_vl", '{"bbox_2d": [0, 0, 140, 140]}', [(0.25, 0.5)]),
        ("gemini", '{"box_2d": [0, 100, 200, 500]}', [(0.3, 0.1)]),
        ("glm", "first (10, 20), then <30, 40> and {50, 60, 70, 80}", [(0.01, 0.02), (0.03, 0.04), (0.06, 0.07)]),
        ("glm", "[[9, 9]] <|begin_of_box|>[[10, 20]]<|end_of_box|> [[9, 9]]", [(0.01, 0.02)]),
        ("internvl", "(9, 9) [[10, 20]]", [(0.01, 0.02)]),
        (
            "molmo2",
            'Counting <points coords="2 1 073 160 2 173 600">x</points> shows 2.',
            [(0.073, 0.16), (0.173, 0.6)],
        ),
        ("molmo2", '<points coords="1 1 073 160;2 2 173 600 3 001 002">x</points>', [(0.173, 0.6), (0.001, 0.002)]),
        ("molmo2", '<points alt="a" coords="1 1 073 160\t2 2 173 600">x</points>', [(0.173, 0.6)]),
        (
            "florence2",
            "a<loc_0><loc_0><loc_1><loc_1>b<loc_999><loc_998><loc_999><loc_998>",
            [(0.001, 0.001), (0.9995, 0.9985)],
        ),
        # what broke off after a complete point
        ("roborefer", "[(0.1, 0.2), (0.3, 0.", [(0.1, 0.2)]),
        ("qwen3_vl", '```json\n[{"point_2d": [100, 200], "label": "a"}, {"point_2d": [3', [(0.1, 0.2)]),
        ("gemini", '[{"point": [200, 100]}, {"poi', [(0.1, 0.2)]),
        ("molmo2", '<points coords="2 1 073 160 2 17', [(0.073, 0.16)]),
        ("florence2", "a<loc_0><loc_0><loc_1><loc_1><loc_5", [(0.001, 0.001)]),
        ("glm", "[[10, 20], [30, 4", [(0.01, 0.02)]),
    ],
)
def test_places_by_hand(family: str, text: str, expected: list[tuple[float, float]]) -> None:
    assert points(family, text) == expected


@pytest.mark.parametrize(
    ("family", "text"),
    [
        # outside, and not clamped; of a list, anywhere: who counts otherwise means other points
        ("roborefer", "[(-0.1, 0.2)]"),
        ("roborefer", "[(0.1, 1.0001)]"),
        ("roborefer", "[(250, 500)]"),
        ("roborefer", "[(1, 1), (250, 500)]"),
        ("roborefer", "[(0.1, 1e999)]"),
        ("qwen3_vl", '{"point_2d": [1001, 5]}'),
        ("qwen3_vl", '{"point_2d": [-1, 5]}'),
        ("qwen2_5_vl", '{"point_2d": [281, 5]}'),
        ("gemini", '{"box_2d": [0, 0, 1100, 500]}'),
        ("molmo2", '<points coords="2 1 1001 500"/>'),
        ("florence2", "<loc_0><loc_0><loc_1000><loc_1>"),
        # of another form, or of none
        ("roborefer", "[(0.1, 0.2, 0.3)]"),
        ("roborefer", "[(0.1 0.2)]"),
        ("roborefer", "[(nan, inf)]"),
        ("roborefer", "[(0.1.2, 0.3)]"),
        ("roborefer", f"[({'0' * 65}, 0.5)]"),
        ("roborefer", "[]"),
        ("roborefer", '[{"point_2d": [250, 500]'),
        ("qwen3_vl", "[(250, 500)]"),
        ("qwen3_vl", '{"point_2d": [250]}'),
        ("qwen3_vl", '{"point_2d": [NaN, Infinity]}'),
        ("gemini", '{"point_2d": [250, 500]}'),
        ("glm", "[[10, 20, 30]]"),
        ("internvl", "(10, 20)"),
        ("molmo2", '<points coords="1 1 250 500">elsewhere</points>'),
        ("molmo2", '<points coords="2 1 25x 500"/>'),
        ("molmo2", '<points coords="2 1 0'),
        ("florence2", "<loc_1><loc_2><loc_3>"),
    ],
)
def test_no_point_is_made_of_what_is_none(family: str, text: str) -> None:
    assert isinstance(read(family, text), Unparsed)


def test_what_florence_2_really_wrote_is_read_where_its_own_processor_reads_it() -> None:
    """Florence-2-base about the wheels of a picture of 640 x 480, and the boxes that its processor makes of it, whole
    pixels (transformers, tests/models/florence2/test_modeling_florence2.py, at commit 001f85b)."""
    text = (
        "</s><s>wheels<loc_144><loc_570><loc_870><loc_778>wheels<loc_711><loc_573><loc_866><loc_774>"
        "wheels<loc_148><loc_579><loc_304><loc_774></s><pad><pad>"
    )
    boxes = [(92, 273, 557, 373), (455, 275, 554, 371), (95, 278, 194, 371)]
    said = read("florence2", text)
    assert isinstance(said, Points), said
    for (x, y), (left, top, right, bottom) in zip(said.points, boxes, strict=True):
        assert (x * 640, y * 480) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=1)


def test_molmo2_has_words_of_its_own_for_nothing() -> None:
    assert read("molmo2", "There are none.") == NOT_VISIBLE
    assert isinstance(read("roborefer", "There are none."), Unparsed)
    assert isinstance(read("molmo2", "There are none of them here."), Unparsed)


def test_qwen2_5_vl_points_nowhere_without_the_size_that_its_processor_made() -> None:
    said = read_pointing(A_POINT["qwen2_5_vl"], FAMILIES["qwen2_5_vl"], Asked(2, None))
    assert isinstance(said, Unparsed)


def test_answers_are_not_evaluated() -> None:
    assert isinstance(read("roborefer", "__import__('os').abort()"), Unparsed)
    assert points("roborefer", "[(0.5, 0.5)] if exit() else 0") == [(0.5, 0.5)]


_PIECES = [
    *A_POINT.values(),
    *("[(", "[[", '("', '{"point_2d": [', '{"point": [', '<points coords="', "<loc_1>", "<|begin_of_box|>"),
    *(
        "</think>",
        "<think>",
        "NOT_VISIBLE",
        "answer",
        "nan",
        "inf",
        "-",
        "1e400",
        "9" * 500,
        "0.5",
        ", ",
        "1",
        "\n",
        "]",
    ),
    *("\u0661", "\u2160", "\x00", "\ud800", "```", "There are none."),
]


@given(st.sampled_from(sorted(FAMILIES)), st.one_of(st.text(), st.lists(st.sampled_from(_PIECES)).map("".join)))
def test_any_text_gives_points_within_the_image_or_nothing(family: str, text: str) -> None:
    said = read(family, text)
    assert isinstance(said, Points | NotVisible | Unparsed)
    if isinstance(said, Points):
        assert said.points
        assert all(0.0 <= share <= 1.0 for point in said.points for share in point)


@given(
    st.sampled_from(["roborefer", "qwen3_vl", "gemini", "glm", "internvl", "molmo2"]),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_points_that_are_written_are_read_and_breaking_off_invents_none(
    family: str, thousandths: list[tuple[int, int]], cut: int
) -> None:
    written = {
        "roborefer": "[" + ", ".join(f"({x / 1000:.3f}, {y / 1000:.3f})" for x, y in thousandths) + "]",
        "qwen3_vl": "[" + ", ".join(f'{{"point_2d": [{x}, {y}]}}' for x, y in thousandths) + "]",
        "gemini": "[" + ", ".join(f'{{"point": [{y}, {x}]}}' for x, y in thousandths) + "]",
        "glm": "[" + ", ".join(f"[{x}, {y}]" for x, y in thousandths) + "]",
        "internvl": "[" + ", ".join(f"[{x}, {y}]" for x, y in thousandths) + "]",
        "molmo2": f'<points coords="2 {" ".join(f"{n} {x:03d} {y:03d}" for n, (x, y) in enumerate(thousandths))}">',
    }[family]
    expected = [(x / 1000, y / 1000) for x, y in thousandths]
    assert points(family, written) == expected
    said = read(family, written[: max(0, len(written) - cut)])
    if isinstance(said, Points):
        assert list(said.points) == points(family, written)[: len(said.points)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "repeated",
    [
        "(",
        "[",
        "[(",
        "[[1,",
        "( ",
        "[( 1 , ",
        "1",
        "1e1",
        ' "point_2d" : [',
        '{"point":[',
        "<loc_1",
        "<points ",
        '<points coords="2 ',
        'coords="',
        "<think>",
        "</think>",
        " ",
        "\n",
        '"',
        "answer ",
        "the final ",
        "[[[[1,2,",
        "not_visible ",
        "-",
        "1 1 1 ",
    ],
)
def test_time_is_linear_in_the_length_of_the_text(family: str, repeated: str) -> None:
    """A quarter of a million characters; a pattern that looks back at them would take hours."""
    began = time.perf_counter()
    read(family, repeated * (250_000 // len(repeated)))
    assert time.perf_counter() - began < 5.0
