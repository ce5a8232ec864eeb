"""One thread for every test, and the check that an error speaks in three parts."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

Refusal = Callable[..., AbstractContextManager[None]]

torch.set_num_threads(1)  # sizes are small: a second thread costs more than it gives, and the sums keep their order


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
