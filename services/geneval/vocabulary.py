"""The words GenEval's tasks are written in: tags, colours, relations, and its names of the object classes.

Source of the lists: djghosh13/geneval. Which classes a service knows is for its detector to say, not for this file.
"""

from assay.coco import plural, singular
from assay.tasks import GENEVAL_TAGS

TAGS = GENEVAL_TAGS
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

# GenEval uses COCO's class names but for the first three, which would be ambiguous in a prompt. The others are Pascal
# VOC's spellings, which published COCO detectors in transformers have in place of COCO's (RT-DETR's documentation shows
# a `sofa`): without them such a detector could never find a couch.
RENAMED_CLASSES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def geneval_class_name(detector_label: str) -> str:
    """GenEval's name of a class that a COCO detector calls `detector_label`."""
    return RENAMED_CLASSES.get(detector_label, detector_label)


def quantity(count: int, class_name: str, adjective: str | None = None) -> str:
    """A number of objects in words: `3 apples`, `1 red bus`, `0 people`."""
    noun = singular(class_name) if count == 1 else plural(class_name)
    return " ".join(word for word in (str(count), adjective, noun) if word)
