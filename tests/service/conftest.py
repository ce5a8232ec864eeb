"""A tiny lattice with a teacher and answers, a service of it on a free port, and clients."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import latticegnn as lg
from latticegnn.answers import AnswerIndex
from latticegnn.predictor import Predictor
from latticegnn.service import Limits, Service
from latticegnn.service.server import listen, server

DIM = 12


class Letters:
    """Embeds a text by how often its letters occur, in twelve classes."""

    source, fingerprint, dim = "letters", "1" * 64, DIM

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        counts = [np.bincount([ord(letter) % DIM for letter in text], minlength=DIM) for text in texts]
        return np.stack(counts).astype(np.float32)


@pytest.fixture(scope="session")
def predictor(tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    spec = lg.LatticeSpec(shape=(3, 3, 5), radii=(0.5, 1.0, 1.5))
    lg.LatticeModel(spec, embedding_dim=DIM, channels=4, hidden=4, steps=5).save_pretrained(folder)
    made = Predictor(folder, teacher=Letters())
    texts = ["north", "east", "south", "west"]
    made.index = AnswerIndex(texts, Letters().encode(texts))
    return made


class Client:
    """One connection that is kept, and what a request on it gets.

    Args:
        port: Of the service.
    """

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __call__(self, asked: Any, path: str = "/predict", method: str = "POST", **headers: str) -> tuple[int, Any]:
        body = asked if isinstance(asked, (bytes, type(None))) else json.dumps(asked).encode()
        given = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        self.connection.request(method, path, body, given)
        self.response = self.connection.getresponse()
        content = self.response.read()
        kind = self.response.headers.get_content_type()
        return self.response.status, json.loads(content) if kind == "application/json" else content.decode()


@contextlib.contextmanager
def served(model: Any, **limits: Any) -> Iterator[int]:
    """Serve a model in a thread of its own; give the port."""
    with listen("127.0.0.1", 0) as taken:
        ready = threading.Event()
        made = server(Service(model, Limits(**limits), {"model": "tiny"}), ready.set)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [taken]})
        thread.start()
        assert ready.wait(20)
        try:
            yield taken.getsockname()[1]
        finally:
            made.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def port(predictor) -> Iterator[int]:
    with served(predictor, body_bytes=20_000, request_rows=8, text_characters=40, answers=9) as found:
        yield found


@pytest.fixture
def ask(port) -> Client:
    return Client(port)


def raw(port: int, *parts: bytes, read: bool = True) -> bytes:
    """Send bytes over a connection of their own and read what comes until the service ends it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while read and (chunk := connection.recv(65536)):
            found += chunk
        return found


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run actions in threads that start together; give what they return."""
    found: list[Any] = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(place: int) -> None:
        barrier.wait()
        found[place] = actions[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
