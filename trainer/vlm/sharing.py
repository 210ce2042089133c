"""Work on many items, shared out among the processes of a run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

Item = TypeVar("Item")
Result = TypeVar("Result")


def shared_out(
    items: Sequence[Item], work: Callable[[list[Item]], list[Result]], batch_size: int, accelerator: Accelerator
) -> list[Result]:
    """Every process works on its part, and gets all results, in order.

    Args:
        items: the same in every process, at least one.
        work: on a batch; one result each.
        batch_size: items of a batch.
        accelerator: of the run.
    """
    number, index = accelerator.num_processes, accelerator.process_index
    # Of a sharded model, all processes make the same passes: who has none left does the first again.
    rounds = -(-len(items) // number)
    mine = [items[n * number + index if n * number + index < len(items) else 0] for n in range(rounds)]
    results: list[Result] = []
    for start in range(0, rounds, batch_size):
        results += work(mine[start : start + batch_size])
    shared = [results] if number == 1 else gather_object([results])
    return [shared[n % number][n // number] for n in range(len(items))]
