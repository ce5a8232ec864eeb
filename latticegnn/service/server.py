"""The web server: connections with deadlines, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import h11
import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from latticegnn.data.teacher_card import read_teacher
from latticegnn.predictor import Predictor
from latticegnn.service.app import Service
from latticegnn.service.limits import Limits


def listen(host: str, port: int) -> socket.socket:
    """Take an address; connections are refused until `serve` runs.

    Args:
        host: A name or an address.
        port: 0 for any that is free.

    Raises:
        OSError: When it cannot be had.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not 0 <= port < 1 << 16:
                raise OSError("a port is a number from 0 to 65535")
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            taken = stack.enter_context(socket.socket(family))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except OSError as error:
            raise OSError(
                f"a service needs an address of this machine and a free port; got {host} and {port}: {error}; choose "
                "another --port (0 for any), or --host 127.0.0.1."
            ) from error
        stack.pop_all()
    return taken


def server(service: Service, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Make the server of a service; its ``run(sockets=[…])`` takes what `listen` gave, and ``should_exit`` ends it.

    Args:
        service: What is served.
        ready: Called once requests are taken.
    """
    limits = service.limits
    config = uvicorn.Config(
        service.app,
        http=protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # with a line for every bad request anyone could fill the disk
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections + 1,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=math.ceil(limits.request_seconds + limits.transfer_seconds),
    )
    return _Server(config, ready)


def serve(service: Service, taken: socket.socket, ready: Callable[[str], None]) -> None:
    """Run a service until SIGINT or SIGTERM; the requests that have arrived by then are answered.

    Args:
        service: What is served.
        taken: What `listen` gave.
        ready: Called with the service's address once requests are taken.
    """
    host, port = taken.getsockname()[:2]
    made = server(service, lambda: ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"))

    def stop(*_: object) -> None:
        made.should_exit = True

    # uvicorn has handlers of its own while it runs, and then raises the signal once more for those there were before.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        made.run(sockets=[taken])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    trust_code: bool = False,
    limits: Limits | None = None,
) -> None:
    """Load a model and serve it until SIGINT or SIGTERM; its address is printed once requests are taken.

    Args:
        model: A run's folder, or that of a saved model.
        host: Address to listen at; there is no authentication, so anyone who reaches it is served.
        port: 0 for any that is free.
        device: Where the model computes.
        trust_code: Allow experts from outside latticegnn, torch and PyG; importing them runs their code.
        limits: Of sizes and times.
    """
    with listen(host, port) as taken:
        predictor = Predictor(model, device=device, trust_code=trust_code)
        card = read_teacher(predictor.folder)
        if card is not None and card.settings is not None:
            _ = predictor.teacher  # built now, so that what it lacks is told here and no request waits for it
        predictor.predict(np.ones((1, predictor.dim), dtype=np.float32) if predictor.takes_vectors else ["ready"])
        identity = {"model": model.resolve().name, "fingerprint": predictor.fingerprint}
        service = Service(predictor, limits or Limits(), identity)
        serve(service, taken, lambda address: print(f"{model} is served at {address}; Ctrl-C ends it", flush=True))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Make uvicorn's HTTP protocol with what it lacks: a time for requests to arrive and for answers to be read.

    Of a request that is late nothing more is read: it gets status 408, or where its answer has begun an end.
    """

    class Punctual(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start()
            if len(self.connections) > 2 * limits.connections:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._stop()
            elif self._deadline is None and self.timeout_keep_alive_task is None:
                self._start()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.get_write_buffer_size():
                self.loop.call_later(limits.transfer_seconds, self._unread)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "a request must follow HTTP/1.1 with a head of at most 16 KiB; got another; mend it.")

        def _start(self) -> None:
            self._deadline = self.loop.call_later(limits.transfer_seconds, self._late)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            rule = f"a request arrives within {limits.transfer_seconds:g} s"
            self._refuse(408, f"{rule}; got no end of this one by then; send it at once.")

        def _unread(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()

        def _refuse(self, status: int, text: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.abort()
                return
            body = json.dumps({"error": text}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Punctual
