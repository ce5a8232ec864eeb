"""What a service takes, and how long it waits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes and times of a service; what goes beyond one is refused, and the answer names the limit.

    Args:
        batch_rows: Rows that one forward takes; requests that wait at the same time share it up to here. A request is
            never split: one with more rows is a forward of its own.
        wait_ms: Milliseconds that a request waits for others to share its forward, while none is computed.
        request_rows: Texts or embeddings of one request.
        text_characters: Characters of one text.
        answers: Greatest ``k``.
        body_bytes: Size of a request's body.
        queue_rows: Rows that may wait; beyond, a request is turned away at once.
        queue_seconds: Longest wait until a request's forward begins.
        request_seconds: Longest wait for an answer, from the arrival of the whole request.
        transfer_seconds: Time for a request to arrive, from its first byte or the connection's start to its last byte,
            and for its answer to be read.
        keep_alive_seconds: Time that a connection stays open between two requests.
        connections: Connections at a time; requests of further ones are turned away, and of twice as many on they are
            cut.

    Raises:
        ValueError: For a number below its least one.
    """

    batch_rows: int = 64
    wait_ms: float = 2.0
    request_rows: int = 64
    text_characters: int = 10_000
    answers: int = 100
    body_bytes: int = 1 << 20
    queue_rows: int = 1024
    queue_seconds: float = 10.0
    request_seconds: float = 30.0
    transfer_seconds: float = 10.0
    keep_alive_seconds: int = 5
    connections: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0 or (value == 0 and field.name != "wait_ms"):
                kind = "a whole number, at least 1" if whole else "a number above 0"
                rule = "a number, 0 or more" if field.name == "wait_ms" else kind
                raise ValueError(f"{field.name} must be {rule}; got {value!r}; {field.default} is the default.")
        if self.queue_rows < self.request_rows:
            raise ValueError(
                f"a request must fit into the queue; got request_rows {self.request_rows} with queue_rows "
                f"{self.queue_rows}; raise queue_rows, or lower request_rows."
            )
