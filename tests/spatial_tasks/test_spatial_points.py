"""Points by hand: of masks, as text, and in concatenated pictures."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.spatial_tasks.masks import centre_of_box, read_mask, target_point
from pipelines.spatial_tasks.points import Answer, Point, SideBySide, Size, read_answer, write_answer


def never(number: int) -> int:
    raise AssertionError("a point was drawn though the middle lies in the mask")


def mask_of(rows: list[str]) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


def test_the_middle_of_the_box_is_not_rounded() -> None:
    mask = mask_of([".....", ".##..", ".##..", "....."])
    # Columns 1 and 2: the middle is 1.5; (1.5 + 0.5) / 5 and (1.5 + 0.5) / 4.
    assert centre_of_box(mask) == (1.5, 1.5)
    assert target_point(mask, never) == Point(0.4, 0.5)


def test_halves_go_to_the_even_pixel_to_see_whether_the_middle_is_in_the_mask() -> None:
    # Columns 0 and 1, middle 0.5, which is pixel 0; columns 1 and 2, middle 1.5, which is pixel 2.
    assert centre_of_box(mask_of(["##"])) == (0.5, 0)
    inside = mask_of([".##", "..#", "..#"])  # middle (1.5, 1): pixel (2, 1)
    outside = mask_of([".##", ".#.", ".#."])
    assert centre_of_box(inside) == (1.5, 1)
    assert centre_of_box(outside) is None
    assert centre_of_box(np.zeros((3, 3), bool)) is None


def test_a_ring_gives_a_pixel_by_its_number_row_by_row() -> None:
    ring = mask_of(["###", "#.#", "###"])
    asked = []

    def draw(number: int) -> int:
        asked.append(number)
        return 4

    assert target_point(ring, draw) == Point((2 + 0.5) / 3, (1 + 0.5) / 3)
    assert asked == [8]
    assert target_point(np.zeros((2, 2), bool), never) is None


def test_masks_of_any_kind_are_read_as_not_black(tmp_path: Path) -> None:
    wanted = mask_of([".#", "##"])
    for number, pixels in enumerate(
        [wanted.astype(np.uint8), wanted.astype(np.uint8) * 255, wanted.astype(np.uint16) * 300]
    ):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        assert np.array_equal(read_mask(tmp_path / f"{number}.png"), wanted)
    Image.fromarray(np.repeat(wanted[..., None] * np.uint8(200), 3, -1)).save(tmp_path / "rgb.png")
    assert np.array_equal(read_mask(tmp_path / "rgb.png"), wanted)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[(0.523, 0.412)]", Answer(False, Point(0.523, 0.412))),
        ("It is at [( 1 ,0.)] or [(0.5, 0.5)].", Answer(False, Point(1.0, 0.0))),
        ("NOT_VISIBLE", Answer(True, None)),
        ("[(0.5, 0.5)], not_visible", Answer(True, None)),  # refusal wins
        ("(0.5, 0.5)", Answer(False, None)),
        ("[(0.1, 0.2), (0.3, 0.4)]", Answer(False, None)),  # two points are none
        ("[(-0.1, 0.2)]", Answer(False, None)),
        ("[(0.5.1, 0.2)]", Answer(False, None)),
        ("[(520, 410)]", Answer(False, Point(520.0, 410.0))),
        ("", Answer(False, None)),
    ],
)
def test_answers_are_read_as_the_reference_reads_them(text: str, answer: Answer) -> None:
    assert read_answer(text) == answer
    assert answer.is_read == (answer.says_not_visible or answer.point is not None)


def test_answers_have_three_decimals() -> None:
    assert write_answer(Point(0.5, 1 / 3)) == "[(0.500, 0.333)]"
    assert write_answer(None) == "NOT_VISIBLE"


def test_a_concatenated_pair_of_equal_pictures_is_halves() -> None:
    frame = SideBySide(Size(64, 48), Size(64, 48))
    assert frame.whole == Size(128, 48)
    assert frame.from_left(Point(0.6, 0.2)) == Point(0.3, 0.2)
    assert frame.from_right(Point(0.6, 0.2)) == Point(0.8, 0.2)
    assert frame.to_right(Point(0.75, 0.9)) == Point(0.5, 0.9)
    assert frame.to_right(Point(0.49, 0.9)).x < 0


def test_a_concatenated_pair_of_unequal_pictures_by_hand() -> None:
    frame = SideBySide(left=Size(30, 20), right=Size(10, 40))
    assert frame.whole == Size(40, 40)
    assert frame.from_left(Point(0.5, 0.5)) == Point(15 / 40, 10 / 40)
    assert frame.from_right(Point(0.5, 0.5)) == Point(35 / 40, 0.5)
    padded = SideBySide(left=Size(10, 40), right=Size(30, 20))
    assert padded.to_right(Point(1.0, 0.75)) == Point(1.0, 1.5)  # in the padding below


sides = st.integers(1, 999)
shares = st.floats(0, 1)


@given(sides, sides, sides, sides, shares, shares)
def test_to_the_whole_and_back(a: int, b: int, c: int, d: int, x: float, y: float) -> None:
    frame = SideBySide(Size(a, b), Size(c, d))
    back = frame.to_right(frame.from_right(Point(x, y)))
    assert back == pytest.approx((x, y), abs=1e-9)
    assert frame.from_left(Point(x, y)).x <= frame.from_right(Point(0, 0)).x + 1e-12
