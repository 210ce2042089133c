"""Masks: which pixel a place belongs to, and which point stands for a target."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.spatial.frames import Frame
from services.spatial.truth import Truth


def truth(*rows: str) -> Truth:
    return Truth(np.array([[pixel == "#" for pixel in row] for row in rows]))


@pytest.mark.parametrize(
    ("x", "y", "hit"),
    [
        (0.5, 0.5, True),  # a border belongs to the pixel that begins there
        (0.499, 0.5, False),
        (0.7499, 0.999, True),
        (0.75, 0.5, False),
        (0.5, 0.499, False),
        (0.0, 0.0, False),
        (1.0, 1.0, False),
    ],
)
def test_pixels_are_half_open(x: float, y: float, hit: bool) -> None:
    assert truth("....", "..#.").is_hit(x, y) is hit


def test_the_far_border_belongs_to_the_last_pixel() -> None:
    assert truth("..", ".#").is_hit(1.0, 1.0)
    assert truth(".#", "..").is_hit(1.0, 0.0)
    assert not truth("#.", "..").is_hit(1.0, 1.0)


def test_the_point_of_a_target_is_its_boxs_centre_where_that_is_on_it() -> None:
    assert truth("....", ".##.", ".##.", "....").point == (0.5, 0.5)
    assert truth("....", "...#").point == (3.5 / 4, 1.5 / 2)
    assert truth("....", "....").point is None


def test_the_point_of_a_hollow_target_is_its_pixel_nearest_to_the_centre() -> None:
    """The box's centre (2.5, 2.5) is in the hole; of the pixels (2, 1), (1, 2), (3, 2), (2, 3), the first is taken."""
    ring = truth(".###.", "#.#.#", "##.##", "#.#.#", ".###.")
    assert ring.point == (2.5 / 5, 1.5 / 5)
    # centre (2, 2): of (0, 1) and (1, 3), as near as each other, the one higher up
    assert truth("#...", "#...", "#...", "####").point == (0.5 / 4, 1.5 / 4)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_point_lies_on_the_target_and_no_pixel_is_nearer_to_the_centre(mask: np.ndarray) -> None:
    found = Truth(mask)
    assert (found.point is None) == (not mask.any()) == (not found.is_visible)
    if found.point is None:
        return
    assert found.is_hit(*found.point)
    rows, columns = np.nonzero(mask)
    centre = ((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2)
    x, y = found.point[0] * found.width, found.point[1] * found.height
    if not np.allclose((x, y), centre):
        # each pixel by its middle, one by one
        ways = [
            (column + 0.5 - centre[0]) ** 2 + (row + 0.5 - centre[1]) ** 2
            for row, column in zip(rows, columns, strict=True)
        ]
        assert (x - centre[0]) ** 2 + (y - centre[1]) ** 2 == pytest.approx(min(ways))


def test_whatever_is_not_black_is_the_target() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[2, 3, 1] = 1
    assert np.argwhere(Truth.of_image(image).mask).tolist() == [[2, 3]]


def test_the_right_half_of_both_pictures_is_the_query() -> None:
    frame = Frame(side_by_side=True)
    assert frame.to_query(0.5, 0.25) == (0.0, 0.25)
    assert frame.to_query(0.75, 1.0) == (0.5, 1.0)
    assert frame.to_query(1.0, 0.0) == (1.0, 0.0)
    assert frame.to_query(0.25, 0.5) == (-0.5, 0.5)
    assert Frame(side_by_side=False).to_query(0.25, 0.5) == (0.25, 0.5)
