"""From the bytes of a request to rows that a model takes, or to a refusal that says why not."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast, get_args

import numpy as np

from latticegnn.lattice.spec import did_you_mean
from latticegnn.predictor import Output
from latticegnn.service.limits import Limits

_FIELDS = ("texts", "embeddings", "output", "k")


class Predicts(Protocol):
    """What a service asks of a model; `latticegnn.Predictor` has it."""

    @property
    def dim(self) -> int:
        """Numbers of an embedding, D."""

    @property
    def has_decoder(self) -> bool:
        """Whether it gives texts."""

    @property
    def index(self) -> Any:
        """The answers it chooses from; None where it has none."""

    def predict(self, inputs: Sequence[str] | np.ndarray, output: Output = "embedding", k: int = 5) -> list[dict]:
        """Give a JSON-ready row for each input, in their order."""


class Refusal(ValueError):
    """A request that is not answered.

    Args:
        status: HTTP's number for the reason.
        message: The rule, what was received, the remedy.
        headers: Of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Question:
    """A request's rows and what is asked of them.

    Args:
        inputs: Texts, or embeddings [n, D], float32.
        output: What is wanted of each.
        k: Answers a row, for output "answers".
    """

    inputs: list[str] | np.ndarray
    output: Output
    k: int

    @property
    def kind(self) -> tuple[bool, str, int]:
        """What requests must have in common to share a forward."""
        return isinstance(self.inputs, np.ndarray), self.output, self.k


def read_question(body: bytes, model: Predicts, limits: Limits) -> Question:
    """Read the body of a request.

    Args:
        body: JSON: {"texts": […]} or {"embeddings": [[…], …]}, and where wanted "output" and, for answers, "k".
        model: What will be asked.
        limits: Rows, characters and answers allowed.

    Raises:
        Refusal: With status 400 for what is no JSON object, 422 for one that cannot be answered.
    """
    asked = _parse(body)
    for name in asked:
        if name not in _FIELDS:
            _refuse(f"a request's fields are {', '.join(_FIELDS)}", name, did_you_mean(name, _FIELDS) or "leave it out")
    if ("texts" in asked) == ("embeddings" in asked):
        _refuse("a request has either texts or embeddings", sorted(asked), 'write {"texts": ["…"]}')
    name = "texts" if "texts" in asked else "embeddings"
    rows = asked[name]
    if not isinstance(rows, list) or not 1 <= len(rows) <= limits.request_rows:
        rule = f"{name} must be a list of 1 to {limits.request_rows} rows"
        if not isinstance(rows, list):
            _refuse(rule, type(rows).__name__, "put it into brackets")
        _refuse(rule, f"{len(rows)} rows", "send the others in further requests" if rows else "send at least one")
    output = _output(asked, model)
    inputs = _texts(rows, limits) if name == "texts" else _embeddings(rows, model.dim)
    return Question(inputs, output, _k(asked, output, limits))


def shown(value: object) -> str:
    """Write what was received, cut to what a line holds."""
    text = value if isinstance(value, str) and value.isprintable() else reprlib.repr(value)  # of any depth and length
    return text if len(text) <= 80 else f"{text[:77]}…"


def _parse(body: bytes) -> dict[str, Any]:
    rule, remedy = "a request's body is one JSON object in UTF-8", 'write {"texts": ["…"]}.'
    try:
        asked = json.loads(body.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # among them UnicodeDecodeError, and integers of over 4,300 digits
        raise Refusal(400, f"{rule}; got {len(body)} bytes that are none: {shown(str(error))}; {remedy}") from error
    if not isinstance(asked, dict):
        raise Refusal(400, f"{rule}; got {shown(asked)}; {remedy}")
    return asked


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {shown(name)} twice")
        found[name] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"the number {name}, which JSON does not have")


def _output(asked: Mapping[str, Any], model: Predicts) -> Output:
    output, known = asked.get("output", "embedding"), get_args(Output)
    if not isinstance(output, str) or output not in known:
        hint = did_you_mean(output, known) or f"ask for {known[0]}"
        _refuse(f"output must be one of {', '.join(known)}", output, hint)
    if output == "text" and not model.has_decoder:
        _refuse("output text needs a model with a text decoder", "one without", "ask for embedding")
    if output == "answers" and model.index is None:
        _refuse("output answers needs a model with answers to choose from", "one without", "ask for embedding")
    return cast(Output, output)


def _k(asked: Mapping[str, Any], output: Output, limits: Limits) -> int:
    k = asked.get("k", min(5, limits.answers))
    if "k" in asked and output != "answers":
        _refuse("k is the number of answers, for output answers alone", f"k with output {output}", "leave k out")
    if type(k) is not int or not 1 <= k <= limits.answers:
        _refuse(f"k must be a whole number from 1 to {limits.answers}", k, "5 is the default")
    return k


def _texts(rows: list[Any], limits: Limits) -> list[str]:
    for index, text in enumerate(rows):
        if not isinstance(text, str):
            _refuse("every text must be a string", f"{shown(text)} as text {index}", "put it into quotes")
        if not text or text.isspace():
            _refuse("a text must have words", f"{text[:20]!r} as text {index}", "leave it out")
        if len(text) > limits.text_characters:
            rule = f"a text has at most {limits.text_characters} characters"
            _refuse(rule, f"{len(text)} in text {index}", "shorten it, or send it in parts")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            _refuse("a text must be Unicode", f"half a surrogate pair in text {index}", "send both halves, or neither")
    return rows


def _embeddings(rows: list[Any], dim: int) -> np.ndarray:
    found = np.empty((len(rows), dim), dtype=np.float32)
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != dim:
            got = f"{len(row)} numbers" if isinstance(row, list) else type(row).__name__
            _refuse(f"an embedding is a list of {dim} numbers", f"{got} in row {index}", "embed by the model's teacher")
        if not set(map(type, row)) <= {int, float}:  # isinstance would take true for a number
            other = next(value for value in row if type(value) not in (int, float))
            _refuse("an embedding holds numbers alone", f"{shown(other)} in row {index}", "send numbers")
        try:
            with np.errstate(over="ignore"):
                found[index] = np.array(row, dtype=np.float64)
        except OverflowError:  # a whole number beyond float64's range
            found[index] = np.inf
        if not np.isfinite(found[index]).all():
            rule = "an embedding's numbers must be finite in float32"
            _refuse(rule, f"one beyond 3.4e38 in row {index}", "scale the embeddings")
        if not found[index].any():
            _refuse("an embedding must not be zero", f"zeros alone in row {index}", "leave it out")
    return found


def _refuse(rule: str, received: object, remedy: str) -> NoReturn:
    end = "" if remedy.endswith("?") else "."
    raise Refusal(422, f"{rule}; got {shown(received)}; {remedy.strip()}{end}")
