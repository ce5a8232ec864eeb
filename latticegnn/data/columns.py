"""Rows of embeddings in a column of a Parquet, Arrow or Feather file."""

import contextlib
import glob
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latticegnn.data.rows import Rows, chosen_key, reading, require_memory

if TYPE_CHECKING:
    from datasets import Dataset


def table_rows(path: Path, key: str | None) -> Rows:
    """Map a column of lists of floats, all of the same length.

    Arrow and Feather files are mapped where they lie, unless they are compressed: those are loaded. `datasets` turns a
    Parquet file into Arrow once, in its own cache (`HF_DATASETS_CACHE`), and maps that. A missing number is nan.

    Raises:
        ModuleNotFoundError: Without `datasets`.
        ValueError: When the file cannot be read, or `key` names no such column.
    """
    try:
        import datasets  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Parquet, Arrow and Feather files are read by datasets; {path} is one, and datasets is not installed; "
            "pip install 'latticegnn[datasets]'."
        ) from error
    rule = "Prepared embeddings must be a sound Parquet, Arrow or Feather file"
    with reading(path, rule, "Write it again"):
        filed = _is_filed(path)
        size = 0 if path.suffix == ".parquet" else _loaded_bytes(path, filed)
    require_memory(size, path, "Write it without compression, so that it can be mapped")
    with reading(path, rule, "Write it again"), _quiet():
        data = _opened(path, filed)
    schema = data.data.table.schema
    columns = [field.name for field in schema if _is_floats(field.type)]
    if not columns or (key in schema.names and key not in columns):
        types = {field.name: str(field.type) for field in schema}
        raise ValueError(
            f"Embeddings must be a column of lists of floats; {path} has, by name, {types}"
            f"{'' if key is None else f', and `key` is {key!r}'}. Write one embedding a row."
        )
    key = chosen_key(columns, key, path, "column of lists of floats")
    name = f"{path}[{key}]"
    with reading(name, "A column must be sound", "Write the file again"):
        column = data.data.table.column(key)
        column.validate(full=True)
        width = _width(column)
    if width is None:
        raise ValueError(
            f"Embeddings must be lists of one length, at least 1; {name} of {len(column)} rows has missing, "
            "empty or ragged ones, or none at all. Drop such rows."
        )
    one = data.with_format("arrow", columns=[key])
    dtype = str(np.dtype(column.type.value_type.to_pandas_dtype()))
    return Rows(name, (len(column), width), dtype, partial(_take, one, key, width))


def _is_filed(path: Path) -> bool:
    """Return whether this is Arrow's format of whole files, Feather's too; `datasets` itself writes streams."""
    with path.open("rb") as stream:
        return path.suffix != ".parquet" and stream.read(6) == b"ARROW1"


def _loaded_bytes(path: Path, filed: bool) -> int:
    """Check a file's batches; return the memory that they take, where one that can be mapped takes none."""
    import pyarrow as pa

    before, size = pa.total_allocated_bytes(), 0
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source) if filed else pa.ipc.open_stream(source)
        for batch in map(file.get_batch, range(file.num_record_batches)) if filed else file:
            batch.validate(full=True)  # before anything is asked of it: pyarrow ends the process over a bad offset
            if pa.total_allocated_bytes() > before:
                size += batch.nbytes
            del batch
    return size


def _opened(path: Path, filed: bool) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset

    if filed:
        # Without a fingerprint datasets would copy and hash the whole table for one.
        return Dataset(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), fingerprint=f"{path.stat().st_mtime_ns}")
    if path.suffix == ".parquet":
        return Dataset.from_parquet(glob.escape(str(path)))
    return Dataset.from_file(str(path))


def _is_floats(kind: Any) -> bool:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def _width(column: Any) -> int | None:
    """Return the length of all the lists, None where they differ, are empty or are missing."""
    import pyarrow.compute as pc

    widths: set[int] = set()
    for chunk in column.chunks:
        extremes = pc.min_max(pc.list_value_length(chunk)).as_py()
        widths |= set(extremes.values()) if chunk.null_count == 0 and len(chunk) else {0} if len(chunk) else set()
    return widths.pop() if len(widths) == 1 and 0 not in widths else None


def _take(data: "Dataset", key: str, width: int, index: slice | np.ndarray) -> np.ndarray:
    table = data[index if isinstance(index, slice) else index.tolist()]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table.column(key).chunks]
    with np.errstate(over="ignore", invalid="ignore"):  # as for the other formats
        return np.concatenate(parts).reshape(-1, width).astype(np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and the log of datasets off the terminal: what fails is told by our own error."""
    import datasets
    from datasets.utils import logging as noise

    verbosity, shown = noise.get_verbosity(), not datasets.are_progress_bars_disabled()
    noise.set_verbosity(noise.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        noise.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()
