"""Which inquiries go through a model together: as many as have so many images, and at least one."""

from collections.abc import Iterator, Sequence

from assay.vision_language.inquiry import Inquiry


def passes(inquiries: Sequence[Inquiry], max_images: int) -> Iterator[list[Inquiry]]:
    """Cut inquiries into passes, in order; one that alone has more images goes alone."""
    together: list[Inquiry] = []
    for inquiry in inquiries:
        if together and sum(len(one.images) for one in together) + len(inquiry.images) > max_images:
            yield together
            together = []
        together.append(inquiry)
    if together:
        yield together
