"""Rows of embeddings in a file, read when they are asked for, so that the file may be larger than the memory."""

import contextlib
import math
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Index = slice | Sequence[int] | np.ndarray


TOGETHER = 64
"""Scattered rows that are read through one map: around each the system makes up to some megabytes resident."""


class Rows:
    """A matrix [n, D] in a file: `rows[index]` reads those rows and returns them as float32.

    Every reading maps the file anew and lets go of it again: what was read is no burden afterwards, and rows can be
    pickled to another process.

    Args:
        name: What errors call the matrix: its file, and its key there.
        shape: (n, D).
        dtype: The name of the type stored, e.g. "bfloat16".
        take: Reads the rows of `slice(start, stop)` or of an array of indices, as float32.

    Raises:
        ValueError: From `rows[index]`, when the index is neither a slice nor a list of row numbers in -n … n - 1, or
            the file can no longer be read.
    """

    def __init__(
        self, name: str, shape: tuple[int, int], dtype: str, take: Callable[[slice | np.ndarray], np.ndarray]
    ) -> None:
        """Refuse a matrix without rows; see the class."""
        if shape[0] == 0:
            raise ValueError(f"Embeddings must have at least one row; {name} has none. Save it again with its rows.")
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._take = take

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        """Return the rows of a slice, or those of m indices in their order, as float32 [m, D]."""
        chosen = self._normal(index)
        count = chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)
        if count == 0:
            return np.empty((0, self.shape[1]), dtype=np.float32)
        with reading(self.name, "Embeddings must stay readable while in use", "Restore the file"):
            if isinstance(chosen, slice):
                return self._take(chosen)
            parts = [self._take(chosen[start : start + TOGETHER]) for start in range(0, count, TOGETHER)]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _normal(self, index: Index) -> slice | np.ndarray:
        n = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(n)
            return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
        rows = np.asarray(index)
        if rows.ndim == 1 and rows.size == 0:
            return np.empty(0, dtype=np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or rows.min() < -n or rows.max() >= n:
            raise ValueError(
                f"Rows are chosen by a slice or a list of whole numbers in {-n} … {n - 1}; received {index!r} for "
                f"{self.name}. Write rows[[3]] for one row, rows[:] for all."
            )
        return np.where(rows < 0, rows + n, rows).astype(np.int64)


@contextlib.contextmanager
def reading(name: str | Path, rule: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises for a damaged file into one error that names the file."""
    try:
        yield
    except Exception as error:  # the libraries below raise a dozen unrelated classes
        cause = error.__cause__ or error
        said = " ".join(str(cause).split())[:300]
        raise ValueError(f"{rule}; {name} fails that ({type(cause).__name__}: {said}). {remedy}.") from error


def check_matrix(name: str, shape: Sequence[int], dtype: object, floating: bool) -> None:
    """Refuse anything but a floating-point matrix [n, D] of at least one column."""
    if len(shape) != 2 or shape[1] < 1 or shape[0] < 0 or not floating:
        raise ValueError(
            f"Embeddings must be a floating-point matrix [n, D]; {name} has shape {list(shape)} and type {dtype}. "
            "Stack one embedding a row."
        )


def chosen_key(names: Collection[str], key: str | None, path: Path, what: str) -> str:
    """Return `key`, or the only name there is; anything else is an error that lists the names."""
    if key is None and len(names) == 1:
        return next(iter(names))
    if key is None:
        raise ValueError(
            f"Embeddings must be exactly one {what} of a file unless `key` names it; {path} holds {sorted(names)}. "
            "Give its name as `key`, or save the one that is meant on its own."
        )
    if key not in names:
        raise ValueError(
            f"`key` must name a {what} of the file; received {key!r} for {path}, which holds {sorted(names)}. "
            "Choose one of them."
        )
    return key


def require_memory(needed: int, name: str | Path, remedy: str) -> None:
    """Refuse to load more bytes than there is free memory."""
    import psutil  # type: ignore[import-untyped]

    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"What is loaded whole must fit the free memory; {name} takes {needed:,} bytes of {free:,} free. {remedy}."
        )


def npy_rows(path: Path, key: str | None) -> Rows:
    """Map a `.npy` file."""
    _no_key(path, key)
    opened = partial(np.lib.format.open_memmap, path, mode="r")
    with reading(path, "A .npy file must hold one plain array", "Save it again with numpy.save"):
        array = opened()
    return _array_rows(str(path), array.shape, array.dtype, opened)


def npz_rows(path: Path, key: str | None) -> Rows:
    """Map an array that lies in a `.npz` file as it is; one that is compressed is loaded."""
    rule, remedy = "A .npz file must be a sound archive of arrays", "Save it again with numpy.savez"
    with reading(path, rule, remedy), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    key = chosen_key(members, key, path, "array")
    info, name = members[key], f"{path}[{key}]"
    with reading(name, rule, remedy), zipfile.ZipFile(path) as archive, archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        else:  # 3.0 differs from 2.0 in the names of fields alone, which no matrix has
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
        header = member.tell()
    check_matrix(name, shape, dtype, np.issubdtype(dtype, np.floating))
    if header + math.prod(shape) * dtype.itemsize != info.file_size:  # before anything of that size is allocated
        raise ValueError(
            f"An array must be as large as its header says; {name} is {info.file_size:,} bytes, its shape "
            f"{list(shape)} and type {dtype} ask for {header + math.prod(shape) * dtype.itemsize:,}. {remedy}."
        )
    if info.compress_type == zipfile.ZIP_STORED:
        with reading(name, rule, remedy):
            start = _member_start(path, info) + header
            opened = partial(_mapped, path, dtype, start, shape, "F" if fortran else "C")
            opened()
    else:
        require_memory(info.file_size, name, "Save it with numpy.savez, which does not compress and can be mapped")
        with reading(name, rule, remedy), zipfile.ZipFile(path) as archive, archive.open(info) as member:
            opened = partial(np.asarray, np.lib.format.read_array(member, allow_pickle=False))
    return _array_rows(name, shape, dtype, opened)


def safetensors_rows(path: Path, key: str | None) -> Rows:
    """Map a tensor of a `.safetensors` file."""
    from safetensors import safe_open

    rule, remedy = "Prepared embeddings must be a sound safetensors file", "Save it again"
    with reading(path, rule, remedy), safe_open(path, framework="pt") as file:
        names = list(file.keys())
    key = chosen_key(names, key, path, "tensor")
    return _tensor_rows(f"{path}[{key}]", partial(_safetensor, path, key), rule, remedy)


def pt_rows(path: Path, key: str | None) -> Rows:
    """Map a tensor saved by `torch.save`, alone or in a dict of tensors; nothing else of a pickle is run."""
    rule, remedy = "A .pt file must hold a tensor or a dict of tensors", "Save a tensor again with torch.save"
    with reading(path, rule, remedy):
        loaded = _torch_load(path)
    if isinstance(loaded, Tensor):
        _no_key(path, key)
        return _tensor_rows(str(path), partial(_torch_load, path), rule, remedy)
    tensors = [name for name, value in loaded.items() if isinstance(value, Tensor)] if _is_dict(loaded) else []
    if not tensors:
        raise ValueError(f"{rule}; {path} holds a {type(loaded).__name__} without one. {remedy}.")
    key = chosen_key(tensors, key, path, "tensor")
    return _tensor_rows(f"{path}[{key}]", partial(_torch_member, path, key), rule, remedy)


def _array_rows(name: str, shape: tuple[int, ...], dtype: np.dtype, opened: Callable[[], np.ndarray]) -> Rows:
    check_matrix(name, shape, dtype, np.issubdtype(dtype, np.floating))
    return Rows(name, (shape[0], shape[1]), str(dtype), partial(_take_array, opened))


def _take_array(opened: Callable[[], np.ndarray], index: slice | np.ndarray) -> np.ndarray:
    # What overflows becomes infinite and is dropped with the other bad rows; a signalling nan is a nan.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(opened()[index]).astype(np.float32)


def _tensor_rows(name: str, opened: Callable[[], Tensor], rule: str, remedy: str) -> Rows:
    with reading(name, rule, remedy):
        tensor = opened()
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    check_matrix(name, tensor.shape, tensor.dtype if dense else tensor.layout, tensor.is_floating_point() and dense)
    with reading(name, rule, remedy):
        tensor[:1].float()  # some types of less than a byte can be stored but not read
    shape, dtype = (tensor.shape[0], tensor.shape[1]), str(tensor.dtype).removeprefix("torch.")
    return Rows(name, shape, dtype, partial(_take_tensor, opened))


def _take_tensor(opened: Callable[[], Tensor], index: slice | np.ndarray) -> np.ndarray:
    rows = opened().detach()[index if isinstance(index, slice) else torch.from_numpy(index)]
    return rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format).numpy()


def _mapped(path: Path, dtype: np.dtype, start: int, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    return np.memmap(path, dtype, "r", start, shape, order)


def _safetensor(path: Path, key: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key)


def _torch_load(path: Path) -> Any:
    return torch.load(path, weights_only=True, mmap=True, map_location="cpu")


def _torch_member(path: Path, key: str) -> Tensor:
    return _torch_load(path)[key]


def _is_dict(loaded: object) -> bool:
    return isinstance(loaded, Mapping) and all(isinstance(name, str) for name in loaded)


def _member_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind its local header, whose two lengths the directory lacks."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), dtype="<u2")
    return info.header_offset + 30 + int(lengths.sum(dtype=np.int64))


def _no_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise ValueError(
            f"`key` chooses among several arrays; received {key!r} for {path}, which is one. Leave it out."
        )
