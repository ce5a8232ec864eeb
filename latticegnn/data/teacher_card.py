"""Which teacher the inputs of a saved model came from: one JSON file beside the model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from latticegnn.data.build import build_teacher
from latticegnn.data.teacher import Teacher
from latticegnn.data.words import WordVectors

if TYPE_CHECKING:
    from latticegnn.data.cache import Encoder

TEACHER_FILE = "teacher.json"
FORMAT = 1


class TeacherCard(NamedTuple):
    """What `read_teacher` reads.

    Args:
        settings: Arguments of `Teacher`, or of `WordVectors`; None for an encoder of the user's own class, which
            cannot be built from a file.
        fingerprint: The teacher's, see `Teacher.fingerprint`.
        dim: D.
    """

    settings: dict[str, Any] | None
    fingerprint: str
    dim: int


def told(teacher: Encoder | None) -> dict[str, str] | None:
    """Name a teacher in plain strings; None for none."""
    if teacher is None:
        return None
    return {"name": repr(teacher), "source": teacher.source, "fingerprint": teacher.fingerprint}


def write_teacher(folder: str | os.PathLike[str], teacher: Encoder) -> None:
    """Write ``teacher.json`` into a saved model's folder, whole or not at all.

    The settings hold what the teacher resolved, not what was left to its defaults, and paths are absolute. The device
    is no part of them.
    """
    folder = Path(folder)
    content = {
        "format": FORMAT,
        "settings": _settings(teacher),
        "source": teacher.source,
        "fingerprint": teacher.fingerprint,
        "dim": teacher.dim,
    }
    part = folder / f".{TEACHER_FILE}.{os.getpid()}"
    try:
        part.write_text(json.dumps(content, indent=2), encoding="utf-8")
        os.replace(part, folder / TEACHER_FILE)
    finally:
        part.unlink(missing_ok=True)


def read_teacher(folder: str | os.PathLike[str]) -> TeacherCard | None:
    """Read what `write_teacher` wrote; None where the model has no such file, as one trained on prepared embeddings.

    Raises:
        ValueError: When the file is damaged.
    """
    file = Path(folder) / TEACHER_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        card = TeacherCard(content["settings"], content["fingerprint"], content["dim"])
        kinds = isinstance(card.settings, dict | None), isinstance(card.fingerprint, str), isinstance(card.dim, int)
        if content["format"] != FORMAT or not all(kinds):
            raise ValueError(
                f"format {content['format']!r} with values of types {[type(part).__name__ for part in card]}"
            )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{TEACHER_FILE} must name a model's teacher as a run writes it, format {FORMAT}; {file} does not "
            f"({type(error).__name__}: {error}). Restore it, or delete it and pass the teacher yourself."
        ) from None
    return card


def rebuild_teacher(
    folder: str | os.PathLike[str], device: str = "cpu", trust_code: bool = False
) -> Teacher | WordVectors:
    """Build the teacher that a saved model's ``teacher.json`` names, and check that it is still the same one.

    Args:
        folder: The saved model's.
        device: Where a `Teacher` runs.
        trust_code: Allow a teacher that was trained with its own Python code; building it runs that code.

    Raises:
        FileNotFoundError: When the teacher's own files are missing.
        ValueError: When the model names no teacher that can be built, its code is not trusted, or its files have
            changed since.
    """
    card = read_teacher(folder)
    remedy = "Pass the teacher that the model was trained with: Predictor(folder, teacher=lg.Teacher(…))."
    if card is None or card.settings is None:
        found = f"has no {TEACHER_FILE}" if card is None else "names an encoder of a class of its user's"
        raise ValueError(f"Texts need the teacher of the model's inputs; {folder} {found}. {remedy}")
    settings = dict(card.settings)
    if settings.get("trust_remote_code") and not trust_code:
        raise ValueError(
            f"A teacher's own code runs only where it is trusted; {Path(folder) / TEACHER_FILE} asks for that of "
            f"{settings.get('source')!r}. Read its Python files, then pass trust_code=True (on the command line "
            "--trust_code)."
        )
    if "path" not in settings:
        settings["device"] = device
    teacher = build_teacher(settings)
    if (teacher.fingerprint, teacher.dim) != (card.fingerprint, card.dim):
        raise ValueError(
            f"The teacher must be the one that the model was trained with, fingerprint {card.fingerprint[:12]}… of "
            f"dimension {card.dim}; {teacher.source} now has {teacher.fingerprint[:12]}… of {teacher.dim}. Restore its "
            "files, or pass another teacher yourself if you know that it fits."
        )
    return teacher


def _settings(teacher: Encoder) -> dict[str, Any] | None:
    if type(teacher) is WordVectors:
        path = {"path": _absolute(teacher.source), "format": teacher._format}
        return path | {name: getattr(teacher, name) for name in ("unknown", "lowercase", "limit")}
    if type(teacher) is Teacher:
        names = ("pooling", "normalize", "max_length", "revision", "trust_remote_code", "dtype", "prefix")
        return {"source": _absolute(teacher.source)} | {name: getattr(teacher, name) for name in names}
    return None


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
