"""Scores of items that come again: kept by a digest of all that decides them, the longest unused given up first.

Only for scorers that always give the same item the same score. What failed is not kept: it may succeed another time.
That an item is not scored twice at once is the queue's part (`assay.serving.batcher`).
"""

import hashlib
import logging
from collections import OrderedDict

import numpy as np

from assay.outcomes import Failed, Outcome
from assay.serving.metrics import Metrics
from assay.serving.scorer import Sample, ScorerInfo
from assay.v1 import reward_service_pb2 as pb
from assay.wire import result_from_proto, result_to_proto

logger = logging.getLogger("assay.serving")

#: What an entry takes beside the score itself: the key, two headers, a place in the dictionary (measured).
ENTRY_BYTES = 235


class OutcomeCache:
    """The scores of one server. Runs on the event loop; no locks.

    Args:
        max_bytes: what all entries may take together; 0 keeps none.
        metrics: tells how many there are.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._metrics = metrics
        # As messages: their size is known, and nobody who got one can change another's.
        self._scores: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, key: bytes | None) -> bool:
        return key in self._scores

    def get(self, key: bytes | None) -> Outcome | None:
        """The score that is kept under `key`; None if there is none."""
        if key is None or key not in self._scores:
            return None
        self._scores.move_to_end(key)
        return result_from_proto(pb.ScoreResult.FromString(self._scores[key]))

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keep a score, with its evidence; neither a failure, nor what no message can hold."""
        if isinstance(outcome, Failed) or key in self._scores:
            return
        try:
            score = result_to_proto("", outcome, with_evidence=True).SerializeToString()
        except (TypeError, ValueError, OverflowError) as error:  # whoever is answered with it is told, alone
            logger.warning("a score is not kept, for it does not fit a message: %s", error)
            return
        size = ENTRY_BYTES + len(score)
        if size > self.max_bytes:  # it would push out all others in vain
            return
        while self.bytes + size > self.max_bytes:
            _, oldest = self._scores.popitem(last=False)
            self.bytes -= ENTRY_BYTES + len(oldest)
        self._scores[key] = score
        self.bytes += size
        self._metrics.cache_entries.set(len(self))
        self._metrics.cache_bytes.set(self.bytes)


def key_of(sample: Sample, info: ScorerInfo) -> bytes:
    """SHA-256 over all that decides a score: scorer, fingerprint, prompt, task, and the shape and pixels of each image.

    The sample's id does not. Nor does whether evidence was asked for: it is kept with every score, and left out of the
    answer where nobody wants it.
    """
    shapes = [image.shape for image in sample.images]
    head = repr((info.name, info.fingerprint, sample.prompt, sample.task, shapes))
    digest = hashlib.sha256(head.encode() + b"\0")
    for image in sample.images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
