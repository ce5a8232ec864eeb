"""One thread for every test, and the check that an error speaks in three parts."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

Refusal = Callable[..., AbstractContextManager[None]]

# Sizes are small: a second thread costs more than it gives. Programs that tests start sum in the same order.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def refuses() -> Refusal:
    """A context that expects an error whose text holds the rule, what was received and the remedy."""

    @contextmanager
    def check(rule: str, received: str, remedy: str, kind: type[Exception] = ValueError) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        for part in (rule, received, remedy):
            assert part in str(caught.value)

    return check


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """The command line sets the level and handler of the package's log; no test inherits another's."""
    log = logging.getLogger("latticegnn")
    level = log.level
    log.handlers.clear()  # one made under another test's captured stderr would write there
    yield
    log.setLevel(level)
    log.handlers.clear()
