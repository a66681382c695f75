"""Something that is done beside a run, such as a process that is killed while it works."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def meanwhile(act: Callable[[Callable[[], bool]], None]) -> Iterator[Future]:
    """Call `act` in a thread beside the block. It gets a function that says whether the block is over.

    So it waits as long as the run takes, whatever the speed of the machine. What it raises is raised after the block.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act, over.is_set)
        try:
            yield future
        finally:
            over.set()
    future.result()
