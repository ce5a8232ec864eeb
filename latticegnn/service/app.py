"""The service's addresses: what a request asks for, and what it gets."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from latticegnn import __version__
from latticegnn.service.batching import Batcher
from latticegnn.service.limits import Limits
from latticegnn.service.questions import Predicts, Refusal, read_question, shown

#: A body somewhat too large is read to its end, as a client that is still sending does not listen for the answer.
_PATIENCE = 8


class Service:
    """A model behind HTTP.

    ======================  ====================================================================================
    ``POST /predict``       {"texts": […]} or {"embeddings": [[…], …]}, "output": "embedding" (the default), "text"
                            or "answers" with "k" → {"rows": […]}, a row for each input, see `latticegnn.Predictor`
    ``GET /health``         200 where a request would be taken, else 503; the model and the seconds since the start
    ``GET /``               the model, what it can give, the limits
    ``GET /metrics``        counts in Prometheus' text form
    ======================  ====================================================================================

    A request that is refused gets {"error": "…"}: the rule, what was received, the remedy; see docs/serve.md for the
    statuses.

    Args:
        model: Answers; a `latticegnn.Predictor`.
        limits: Of sizes and times.
        identity: JSON-ready facts by which clients know the model.

    Attributes:
        app: The ASGI application.
        limits: As given.
    """

    def __init__(self, model: Predicts, limits: Limits, identity: Mapping[str, Any]) -> None:
        self.model, self.limits, self.identity = model, limits, dict(identity)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.started = time.monotonic()
        self.app = Starlette(
            routes=[
                Route("/predict", self.predict, methods=["POST"]),
                Route("/health", self.health),
                Route("/", self.info),
                Route("/metrics", self.metrics),
            ],
            exception_handlers={
                HTTPException: self.astray,
                Refusal: self.refuse,
                ClientDisconnect: self.hang_up,
                Exception: self.fail,
            },
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Answer questions while the application runs."""
        async with Batcher(self.model, self.limits).running() as self.batcher:
            yield

    async def predict(self, request: Request) -> Response:
        """Answer a question."""
        question = read_question(await self._body(request), self.model, self.limits)
        rows = await self.batcher.ask(question)
        response = JSONResponse({"rows": rows})
        self.statuses[200] += 1
        return response

    async def health(self, request: Request) -> Response:
        """Say whether a request would be taken."""
        ready = self.batcher.ready
        content = {"ready": ready, **self.identity, "seconds": round(time.monotonic() - self.started, 3)}
        return JSONResponse(content, 200 if ready else 503)

    async def info(self, request: Request) -> Response:
        """Say what the model is and what is taken."""
        outputs = {"embedding": True, "text": self.model.has_decoder, "answers": self.model.index is not None}
        return JSONResponse(
            {
                "latticegnn": __version__,
                **self.identity,
                "dim": self.model.dim,
                "outputs": [name for name, given in outputs.items() if given],
                "limits": dataclasses.asdict(self.limits),
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Give counts in Prometheus' text form."""
        batcher = self.batcher
        lines = ["# TYPE latticegnn_requests_total counter"]
        lines += [f'latticegnn_requests_total{{status="{s}"}} {n}' for s, n in sorted(self.statuses.items())]
        for name, kind, value in (
            ("rows_total", "counter", batcher.rows),
            ("forwards_total", "counter", batcher.batches),
            ("forward_seconds_total", "counter", batcher.seconds),
            ("waiting_rows", "gauge", batcher.waiting),
        ):
            lines += [f"# TYPE latticegnn_{name} {kind}", f"latticegnn_{name} {value}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer a request that breaks a rule."""
        assert isinstance(error, Refusal)
        return self._error(error.status, str(error), error.headers)

    async def astray(self, request: Request, error: Exception) -> Response:
        """Answer a request for an unknown address, or with another method."""
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {shown(request.url.path)}"
        text = f"there are POST /predict, GET /, GET /health and GET /metrics; got {asked}; ask for one of these."
        return self._error(error.status_code, text, error.headers)

    async def hang_up(self, request: Request, error: Exception) -> Response:
        """End a request whose client has gone, or was late; nothing is sent any more."""
        return Response()

    async def fail(self, request: Request, error: Exception) -> Response:
        """Answer a request that met a mistake of ours; the server logs it."""
        return self._error(500, f"a service must not fail; got {type(error).__name__}; see the service's log.")

    async def _body(self, request: Request) -> bytes:
        """Read a body of JSON, never holding more of it than the limit."""
        kind, _, charset = request.headers.get("content-type", "").lower().partition(";")
        plain = charset.replace(" ", "").replace('"', "") in ("", "charset=utf-8")
        if kind.strip() != "application/json" or not plain or "content-encoding" in request.headers:
            got = " ".join(
                [request.headers.get("content-type") or "no type", *request.headers.getlist("content-encoding")]
            )
            remedy = "send the header Content-Type: application/json."
            raise Refusal(415, f"a body is application/json in UTF-8, not compressed; got {shown(got)}; {remedy}")
        body, size, limit = bytearray(), 0, self.limits.body_bytes
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                body += chunk
            elif size > _PATIENCE * limit:
                break
        if size > limit:
            rule = f"a request's body has at most {limit} bytes"
            raise Refusal(413, f"{rule}; got more; send fewer rows a request.", {"connection": "close"})
        return bytes(body)

    def _error(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        self.statuses[status] += 1
        return JSONResponse({"error": text}, status, headers)
