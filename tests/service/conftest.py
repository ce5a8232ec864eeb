"""A tiny lattice with a teacher and answers, a service of it on a free port, and clients."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class Gated:
    """A model that waits at a gate before each forward, and notes what it is asked.

    Args:
        model: Answers.
        fault: Raised where a vector begins with 666.
    """

    def __init__(self, model: Predictor, fault: Exception | None) -> None:
        self.model, self.fault = model, fault
        self.dim, self.has_decoder, self.index = model.dim, model.has_decoder, model.index
        self.gate, self.begun = threading.Event(), threading.Event()
        self.calls: list[tuple[int, str, str]] = []

    def predict(self, inputs, output="embedding", k=5):
        self.begun.set()
        assert self.gate.wait(8)
        self.calls.append((len(inputs), output, threading.current_thread().name))
        if self.fault is not None and (inputs[:, 0] == 666).any():
            raise self.fault
        return self.model.predict(inputs, output=output, k=k)


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
    """A service with small limits that all tests share."""
    with served(predictor, body_bytes=20_000, request_rows=8, text_characters=40, answers=9) as found:
        yield found


@pytest.fixture
def client() -> Iterator[Callable[[int], Client]]:
    """Open a connection to a port; all are closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect(port: int) -> Client:
            made = Client(port)
            stack.callback(made.connection.close)
            return made

        yield connect


@pytest.fixture
def ask(port, client) -> Client:
    return client(port)


@pytest.fixture
def gated(predictor) -> Iterator[Callable[..., Gated]]:
    """Make a model that waits at a gate; all gates are open in the end."""
    made: list[Gated] = []

    def make(fault: Exception | None = None) -> Gated:
        made.append(Gated(predictor, fault))
        return made[-1]

    yield make
    for model in made:
        model.gate.set()


@pytest.fixture
def serving() -> Callable[..., Any]:
    return served


@pytest.fixture
def raw() -> Callable[..., bytes]:
    """Send bytes over a connection of their own and read what comes until the service ends it."""

    def talk(port: int, *parts: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            for part in parts:
                connection.sendall(part)
            found = b""
            while chunk := connection.recv(65536):
                found += chunk
            return found

    return talk


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """Run actions in threads that start together; give what they return."""

    def run(*actions: Callable[[], Any]) -> list[Any]:
        barrier = threading.Barrier(len(actions))

        def act(action: Callable[[], Any]) -> Any:
            barrier.wait()
            return action()

        with ThreadPoolExecutor(len(actions)) as pool:
            return list(pool.map(act, actions))

    return run
