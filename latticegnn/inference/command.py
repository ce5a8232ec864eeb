"""The commands `latticegnn predict` and `latticegnn index`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from latticegnn.answers import AnswerIndex, Backend
from latticegnn.data.build import build_teacher
from latticegnn.inference.inputs import InputFormat, Inputs
from latticegnn.inference.outputs import open_output
from latticegnn.inference.progress import Identity
from latticegnn.inference.stream import OnError, Summary, Wanted, stream
from latticegnn.nn import Generation
from latticegnn.predictor import Output, Predictor
from latticegnn.screening import ready_texts

REPORTED = 20
"""Bad lines that are told one by one."""

ONLY_FOR: dict[Output, dict[str, Any]] = {
    "answers": {"k": 5, "answers": None, "backend": "exact"},
    "text": {"generation": Generation()},
}
"""Options that only one output listens to, with their defaults."""

BROKEN_PIPE = 141
"""Exit status of a program whose reader is gone, as the shell gives it."""


def add_predict_arguments(parser: Any) -> None:
    """Add the options of `latticegnn predict` to a parser."""
    _add_model_arguments(parser)
    add = parser.add_argument
    add("--text", type=str, default=None, help="One text, in place of --input.")
    add("--output", type=str, default="-", help="FILE.jsonl; for embeddings also .npy or .safetensors; - for stdout.")
    add(
        "--as",
        type=Output | None,
        default=None,
        help="By default text of a model with a decoder, else answers where it has any.",
    )
    add("--k", type=int, default=5, help="Answers to each input.")
    add("--answers", type=Path | None, default=None, help="Index to answer from, in place of the model's own.")
    add("--backend", type=Backend, default="exact", help="What searches the answers.")
    add("--batch_size", type=int, default=64, help="Inputs that are read, predicted and written together.")
    add("--on_error", type=OnError, default="stop", help="At an input that cannot be used.")
    parser.add_class_arguments(Generation, "generation")
    add("--resume", action="store_true", help="Go on with an output that was broken off.")


def add_index_arguments(parser: Any) -> None:
    """Add the options of `latticegnn index` to a parser."""
    _add_model_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the index.")


def predict(settings: Any) -> int:
    """Predict texts or vectors from a file, a pipe or the command line; say on standard error what was not."""
    if settings.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1; got {settings.batch_size}; 64 is the default.")
    if settings.resume and settings.input is None:
        raise ValueError("--resume goes through the inputs anew, from a file; got none; give it with --input.")
    predictor, opened = _opened(settings)
    if settings.answers is not None:
        predictor.answer_from(AnswerIndex.load(settings.answers))
    if predictor.index is not None:
        predictor.answer_from(predictor.index.searched_by(settings.backend))
    most: Output = "text" if predictor.has_decoder else "embedding" if predictor.index is None else "answers"
    wanted = Wanted(settings["as"] or most, settings.k, settings.generation)
    _refuse_unused(settings, wanted.output)
    predictor.check(wanted.output, wanted.k)
    target: Path | IO[bytes] = sys.stdout.buffer if settings.output == "-" else Path(settings.output)
    output = open_output(target, _identity(predictor, wanted, settings), predictor.dim, settings.resume)
    summary = Summary()

    def report(line: int, fault: str) -> None:
        if summary.bad <= REPORTED:
            print(f"latticegnn: line {line}: {fault}", file=sys.stderr)

    try:
        with contextlib.closing(output):
            stream(predictor, opened, output, wanted, settings.batch_size, settings.on_error, report, summary)
    except BrokenPipeError:
        if settings.output == "-":  # which the interpreter flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"latticegnn: the reader of the output is gone after {summary.lines:,} lines", file=sys.stderr)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"latticegnn: interrupted after {summary.lines:,} lines{_remedy(target)}", file=sys.stderr)
        return 130
    except OSError as error:
        raise OSError(
            f"outputs must have room and stay writable; {target} failed after {summary.lines:,} lines "
            f"({error.strerror or error}); make room{_remedy(target)}"
        ) from error
    _tell(summary, settings)
    return 0


def index(settings: Any) -> int:
    """Embed answers with the teacher alone, and write them as an index."""
    predictor, opened = _opened(settings)
    texts: list[str] = []
    for item in opened():
        if not isinstance(item.value, str):
            raise ValueError(f"answers must be texts; line {item.line} is none: {item.fault or 'it is a vector'}")
        texts.append(item.value)
    vectors, bad, cut = ready_texts(texts, predictor.teacher)
    if bad:
        raise ValueError(f"answers must be texts; line {min(bad) + 1} is none: {bad[min(bad)]}")
    AnswerIndex(texts, vectors, fingerprint=predictor.teacher.fingerprint).save(settings.output)
    if cut:
        print(f"latticegnn: {cut:,} answers were longer than the teacher reads, and were cut", file=sys.stderr)
    print(settings.output)
    return 0


def _add_model_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Folder of a run, for instance runs/latest, or of a saved model.")
    add("--input", type=Path | None, default=None, help=".txt, .jsonl, or vectors; standard input where left out.")
    add("--format", type=InputFormat, default="auto", help="Of the input; auto goes by the suffix.")
    add("--field", type=str | None, default=None, help="JSONL: field of the text. Vectors: which array.")
    add("--encoding", type=str, default="utf-8", help="Of text and JSONL.")
    add("--teacher", type=str | None, default=None, help="Source of the teacher, in place of the model's own.")
    add("--device", type=str, default="cpu", help="A torch device.")
    add("--trust_code", action="store_true", help="Run code that comes with the model or its teacher.")


def _opened(settings: Any) -> tuple[Predictor, Callable[[], Inputs]]:
    """Load the model, and find the inputs; what cannot work is told before anything is written."""
    text = settings.get("text")
    if text is not None and settings.input is not None:
        raise ValueError(f"inputs come from one place; got --text and --input {settings.input}; leave one out.")
    if text is not None and (settings.format, settings.field, settings.encoding) != ("auto", None, "utf-8"):
        raise ValueError(
            "--format, --field and --encoding are for files and pipes; got one beside --text; leave it out."
        )
    if text is not None:
        opened = partial(Inputs, BytesIO(json.dumps({"text": text}).encode()), "jsonl", name="--text")
    elif settings.input is not None:
        opened = partial(Inputs, settings.input, settings.format, settings.field, settings.encoding)
    else:
        opened = partial(Inputs, sys.stdin.buffer, settings.format, settings.field, settings.encoding)
        if sys.stdin.isatty():
            print("latticegnn: reading lines from the terminal; Ctrl-D ends them", file=sys.stderr)
    found = opened()
    teacher = None if settings.teacher is None else build_teacher(settings.teacher)
    predictor = Predictor(settings.model, teacher, settings.device, settings.trust_code)
    if found.dim is None:
        if predictor.takes_vectors:
            _ = predictor.teacher
    elif not predictor.takes_vectors:
        raise ValueError(
            f"vectors are for a lattice that takes embeddings; {predictor.folder} takes token ids; give texts."
        )
    elif found.dim != predictor.dim:
        raise ValueError(
            f"vectors must have the model's dimension, {predictor.dim}; {found.name} has {found.dim}; embed with the "
            "teacher that the model was trained with."
        )
    # It would say of every batch how many texts it cut; the summary says it once.
    logging.getLogger("latticegnn").setLevel(logging.ERROR)
    return predictor, opened


def _refuse_unused(settings: Any, output: Output) -> None:
    for kind, options in ONLY_FOR.items():
        for name, default in options.items():
            if kind != output and settings[name] != default:
                raise ValueError(
                    f"--{name} is for --as {kind}; got it with --as {output}, which has no use for it; leave it out."
                )


def _identity(predictor: Predictor, wanted: Wanted, settings: Any) -> Identity:
    found: dict[str, Any] = {"model": predictor.fingerprint, "output": wanted.output}
    found |= {
        "format": settings.format,
        "field": settings.field,
        "encoding": settings.encoding,
        "teacher": settings.teacher,
    }
    if wanted.output == "text":
        found["generation"] = asdict(wanted.generation or Generation())
    if wanted.output == "answers":
        assert predictor.index is not None
        found |= {"k": wanted.k, "answers": predictor.index.digest()}
    return found


def _tell(summary: Summary, settings: Any) -> None:
    parts = []
    if summary.before:
        parts.append(f"{summary.before:,} of them by an earlier run")
    if summary.bad:
        parts.append(f"{summary.bad:,} of them bad")
    if summary.truncated:
        parts.append(f"{summary.truncated:,} texts longer than the teacher reads, and cut")
    if parts:
        print(f"latticegnn: {summary.lines:,} lines, {', '.join(parts)}", file=sys.stderr)


def _remedy(target: object) -> str:
    return "; go on with --resume" if isinstance(target, Path) else ""
