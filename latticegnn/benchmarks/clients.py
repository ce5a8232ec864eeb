"""Clients of a service, good and bad, as asyncio's own streams: what loads it while it is measured."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

_HOST = "127.0.0.1"
_BODIES = 200  # distinct requests; a service keeps nothing of them, so their repetition favours no one


def load(
    port: int, requests: int, connections: int, dim: int | None, rate: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Send requests of one row each over connections that are kept.

    Args:
        port: Of the service on this machine.
        requests: How many.
        connections: At a time.
        dim: Numbers of the embeddings that are sent; None sends texts.
        rate: Requests a second, at the random moments of a Poisson process; a request's time counts from its moment,
            whether a connection was free or not. None: each connection sends its next request at once.
        seed: Of rows and moments.

    Returns:
        Seconds in all, milliseconds at the 50th and 99th percentile and at most, and the number of each status.
    """
    generator = np.random.default_rng(seed)
    bodies = [_body(generator, dim, row) for row in range(_BODIES)]
    due = None if rate is None else np.cumsum(generator.exponential(1 / rate, requests)).tolist()
    return asyncio.run(_load(port, bodies, requests, connections, due))


def trouble(port: int, seconds: float) -> dict[str, dict[str, int]]:
    """Send what must be refused, for a while: by the second ten bodies that are no question, ten requests that are no
    HTTP and two bodies of 2 MB, and all the time twenty heads and bodies that never end.

    Args:
        port: Of the service on this machine.
        seconds: How long.

    Returns:
        What was sent, to the first line of the answer or "cut", to how often.
    """  # noqa: D205
    return asyncio.run(_trouble(port, seconds))


def _request(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def _body(generator: np.random.Generator, dim: int | None, row: int) -> bytes:
    if dim is None:
        return _request(json.dumps({"texts": [f"What does function number {row} return, and when?"]}).encode())
    vector = generator.normal(size=dim).astype(np.float32)
    return _request(json.dumps({"embeddings": [(vector / np.linalg.norm(vector)).tolist()]}).encode())


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


async def _load(
    port: int, bodies: list[bytes], requests: int, connections: int, due: list[float] | None
) -> dict[str, Any]:
    statuses: collections.Counter[int] = collections.Counter()
    took: list[float] = []
    turns = iter(range(requests))
    start = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(_HOST, port)
        for turn in turns:
            begun = time.perf_counter()
            if due is not None:
                begun = start + due[turn]
                await asyncio.sleep(begun - time.perf_counter())
            writer.write(bodies[turn % len(bodies)])
            statuses[await _answer(reader)] += 1
            took.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    half, most = np.percentile(took, [50, 99])
    return {
        "seconds": time.perf_counter() - start,
        "p50": 1e3 * half,
        "p99": 1e3 * most,
        "max": 1e3 * max(took),
        "statuses": {str(status): count for status, count in statuses.items()},
    }


async def _trouble(port: int, seconds: float) -> dict[str, dict[str, int]]:
    end = time.perf_counter() + seconds
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    async def once(name: str, sent: bytes, drip: bytes = b"") -> None:
        try:
            reader, writer = await asyncio.open_connection(_HOST, port)
            with contextlib.closing(writer):
                writer.write(sent)
                answer = asyncio.ensure_future(reader.readline())
                while drip and not answer.done():
                    await asyncio.wait([answer], timeout=0.5)
                    writer.write(drip)
                line = await answer
        except ConnectionError:
            line = b""
        found[name][line.decode().strip() or "cut"] += 1

    async def again(every: float, act: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            await act()
            await asyncio.sleep(begun + every - time.perf_counter())

    wrong = itertools.cycle((b'{"texts": [1]}', b"[" * 9000, b'{"embeddings": [[NaN]]}', b'{"texts": ', b"\xff"))
    large = _request(b" " * 2_000_000)
    await asyncio.gather(
        again(0.1, lambda: once("no question", _request(next(wrong)))),
        again(0.1, lambda: once("no HTTP", b"nonsense\r\n\r\n")),
        again(0.5, lambda: once("2 MB", large)),
        *(again(0, lambda: once("head without end", b"POST /predict HTTP/1.1\r\n", b"X: y\r\n")) for _ in range(10)),
        *(again(0, lambda: once("body without end", _request(b"{", 9000), b" ")) for _ in range(10)),
    )
    return {name: dict(counts) for name, counts in found.items()}
