"""Requests that wait at the same time share one forward, in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latticegnn.service.limits import Limits
from latticegnn.service.questions import Predicts, Question, Refusal

logger = logging.getLogger("latticegnn")

Rows = list[dict[str, Any]]


@dataclass(eq=False)
class _Job:
    """A question on its way, and the two moments its request waits for."""

    question: Question
    arrived: float
    taken: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    answer: asyncio.Future[Rows | Refusal] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Answers questions, those of a kind together.

    The oldest question waits ``wait_ms`` for company, unless it has waited that long for the forward before; then it
    and the questions of its kind behind it, as many as ``batch_rows`` hold, are one call of the model. Where that call
    fails, its halves are asked by themselves and so on, so that what is wrong with one question reaches no other. Made
    inside a running event loop; `running` starts it.

    Args:
        model: Is asked, always in the same thread.
        limits: Of rows and times.

    Attributes:
        waiting: Rows in the queue.
        rows: Rows answered so far.
        batches: Forwards so far.
        seconds: Time spent in them.
        since: When the present forward began, in `time.monotonic`'s seconds; None while there is none.
    """

    def __init__(self, model: Predicts, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.waiting = self.rows = self.batches = 0
        self.seconds = 0.0
        self.since: float | None = None
        self._queue: collections.deque[_Job] = collections.deque()
        self._came, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="latticegnn-forward")
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Batcher]:
        """Answer questions until the block is left."""
        self._task = asyncio.create_task(self._work())
        try:
            yield self
        finally:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._thread.shutdown(cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether a question would be taken and the present forward, if any, is within a request's time."""
        begun = self.since
        stuck = begun is not None and time.monotonic() - begun > self.limits.request_seconds
        working = self._task is not None and not self._task.done()
        return working and not stuck and self.waiting < self.limits.queue_rows

    async def ask(self, question: Question) -> Rows:
        """Put a question into the queue and wait for its rows.

        Raises:
            Refusal: 503 where the queue is full, 504 where the wait is too long, 422 where the model refuses the rows,
                500 where it fails.
        """
        limits, count = self.limits, len(question.inputs)
        if self.waiting + count > limits.queue_rows:
            raise Refusal(
                503,
                f"at most {limits.queue_rows} rows may wait; got {count} with {self.waiting} waiting; try again later.",
                {"retry-after": "1"},
            )
        job = _Job(question, asyncio.get_running_loop().time())
        self._queue.append(job)
        self.waiting += count
        self._came.set()
        if self.waiting >= limits.batch_rows:
            self._full.set()
        try:
            async with asyncio.timeout(limits.request_seconds):
                async with asyncio.timeout(limits.queue_seconds):
                    await job.taken
                found = await job.answer
        except TimeoutError:
            late = job.answer.cancelled()
            rule = f"an answer takes at most {limits.request_seconds:g} s, {limits.queue_seconds:g} s of them waiting"
            where = "in the forward" if late else f"in a queue of {self.waiting} rows"
            raise Refusal(504, f"{rule}; got beyond that {where}; try again later, or send fewer rows.") from None
        finally:
            if job in self._queue:  # gave up before its turn
                self._queue.remove(job)
                self.waiting -= count
        if isinstance(found, Refusal):
            raise found
        return found

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._came.wait()
            self._came.clear()
            while self._queue:
                left = self._queue[0].arrived + 1e-3 * self.limits.wait_ms - loop.time()
                if left > 0 and self.waiting < self.limits.batch_rows:
                    self._full.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._full.wait(), left)
                jobs = self._take()
                if jobs:
                    found = await loop.run_in_executor(self._thread, self._compute, [job.question for job in jobs])
                    for job, answer in zip(jobs, found, strict=True):
                        if not job.answer.done():  # its request may have given up
                            job.answer.set_result(answer)

    def _take(self) -> list[_Job]:
        """Remove from the queue what is answered next: the oldest job and those of its kind, in their order."""
        taken: list[_Job] = []
        kept: collections.deque[_Job] = collections.deque()
        rows = 0
        for job in self._queue:
            count = len(job.question.inputs)
            if job.taken.done():  # its request has just given up
                continue
            if taken and (job.question.kind != taken[0].question.kind or rows + count > self.limits.batch_rows):
                kept.append(job)
                continue
            taken.append(job)
            rows += count
            job.taken.set_result(None)
        self._queue = kept
        self.waiting = sum(len(job.question.inputs) for job in kept)
        return taken

    def _compute(self, questions: Sequence[Question]) -> list[Rows | Refusal]:
        """Ask the model, in the thread, and keep the time."""
        start = self.since = time.monotonic()
        found = self._answers(questions)
        self.since = None
        self.seconds += time.monotonic() - start
        return found

    def _answers(self, questions: Sequence[Question]) -> list[Rows | Refusal]:
        """Ask the model everything at once; where that fails each half by itself, down to the question at fault."""
        try:
            return list(self._together(questions))
        except Exception as error:
            if len(questions) == 1:
                return [_refusal(error)]
        half = len(questions) // 2
        return self._answers(questions[:half]) + self._answers(questions[half:])

    def _together(self, questions: Sequence[Question]) -> list[Rows]:
        inputs = [question.inputs for question in questions]
        joined = (
            np.concatenate(inputs) if isinstance(inputs[0], np.ndarray) else [text for part in inputs for text in part]
        )
        rows = iter(self.model.predict(joined, output=questions[0].output, k=questions[0].k))
        found = [list(itertools.islice(rows, len(part))) for part in inputs]
        self.batches += 1
        self.rows += len(joined)
        return found


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, ValueError):
        return Refusal(422, str(error))
    logger.error("a forward failed: %s", error, exc_info=error)
    return Refusal(500, f"the model must not fail; got {type(error).__name__}; see the service's log.")
