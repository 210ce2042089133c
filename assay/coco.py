"""The 80 object classes of COCO under GenEval's names, in COCO's order, and their plurals.

Source of the order and of the three renamed classes (computer mouse, tv remote, computer keyboard): djghosh13/geneval.
"""

_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
COCO_CLASSES: tuple[str, ...] = tuple(_NAMES.split(", "))

_IRREGULAR_PLURALS = {
    "broccoli": "heads of broccoli",
    "computer mouse": "computer mice",
    "knife": "knives",
    "person": "people",
    "scissors": "pairs of scissors",
    "sheep": "sheep",
    "skis": "pairs of skis",
}
_SINGULARS = {
    "broccoli": "head of broccoli",
    "scissors": "pair of scissors",
    "skis": "pair of skis",
}


def singular(class_name: str) -> str:
    """One of them in words: "apple", "pair of skis"."""
    return _SINGULARS.get(class_name, class_name)


def plural(class_name: str) -> str:
    """Several of them in words: "apples", "knives", "pairs of skis"."""
    if class_name in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[class_name]
    return class_name + ("es" if class_name.endswith(("s", "sh", "ch", "x")) else "s")
