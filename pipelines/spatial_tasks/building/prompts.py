"""How the questions are worded. No `<image>` stands in them: whoever asks puts one before the text for each picture."""

from pipelines.spatial_tasks.points import NOT_VISIBLE, Point, write_answer

CORRESPONDENCE = (
    "Two pictures of one scene follow each other, taken from different places. In the first one, the reference, an "
    "object is marked in red. Find that very object in the second one, the query.\n"
    "If it can be seen there, answer with one point on it, [(x, y)]: x from the left and y from the top, as shares of "
    "the width and the height of the second picture, from 0 to 1.\n"
    f"If it cannot be seen there, answer {NOT_VISIBLE}."
)
CONCATENATED = (
    "This picture is two pictures of one scene side by side, taken from different places: the reference on the left, "
    "the query on the right. The point {point} lies on an object of the left one. Find that very object in the right "
    "one.\n"
    "If it can be seen there, answer with one point on it, [(x, y)]. All points, the one given and yours, are shares "
    "of the width and the height of the whole picture, from 0 to 1; yours lies in the right part.\n"
    f"If it cannot be seen there, answer {NOT_VISIBLE}."
)
DIFFERENCE = (
    "Two pictures show one view. Something of the first one was taken away or changed in the second one. Find where.\n"
    "Answer with one point inside the changed part, [(x, y)]: x from the left and y from the top, as shares of the "
    "width and the height of the second picture, from 0 to 1."
)


def concatenated(reference: Point) -> str:
    """The question about a concatenated pair.

    Args:
        reference: a point of the object in the left part, in the frame of the whole.
    """
    return CONCATENATED.replace("{point}", write_answer(reference))
