"""Prepared embeddings in files: every format gives back what was written, or says what is wrong."""

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from latticegnn.data import check_rows, load_vectors, open_vectors
from latticegnn.data.vectors import FORMATS

ANY_FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.floats(width=32, allow_nan=True)
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Parquet files are turned into Arrow in a cache of this module's own."""
    config = pytest.importorskip("datasets").config
    before = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vectors")


def matrix(rows: int = 40, dim: int = 6, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, dim)).astype(dtype)


def table(column, kind=None):
    import pyarrow as pa

    array = pa.array(column, type=kind)
    return pa.table({"id": list(range(len(array))), "embedding": array})


def write_table(columns, file: Path, compression: str = "uncompressed") -> None:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(columns, file, row_group_size=7)
    elif file.suffix == ".feather":
        pyarrow.feather.write_feather(columns, file, compression=compression, chunksize=7)
    else:
        with pa.ipc.new_stream(file, columns.schema) as stream:
            stream.write_table(columns, max_chunksize=7)


def write(file: Path, values: np.ndarray) -> None:
    """Write a matrix in the format that the file's name asks for."""
    if file.suffix == ".npy":
        np.save(file, values)
    elif file.name.endswith("deflated.npz"):
        np.savez_compressed(file, x=values)
    elif file.suffix == ".npz":
        np.savez(file, x=values)
    elif file.suffix == ".safetensors":
        save_file({"x": torch.from_numpy(values)}, file)
    elif file.suffix == ".pt":
        torch.save(torch.from_numpy(values), file)
    else:
        import pyarrow as pa

        fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        compression = "lz4" if "lz4" in file.name else "uncompressed"
        write_table(table(fixed if "fixed" in file.name else list(values)), file, compression)


NAMES = [
    "a.npy",
    "a.npz",
    "deflated.npz",
    "a.safetensors",
    "a.pt",
    "a.parquet",
    "fixed [1]*.parquet",
    "a.arrow",
    "fixed.arrow",
    "a.feather",
    "fixed lz4.feather",
]


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def test_every_format_is_tried():
    assert {Path(name).suffix for name in NAMES} == set(FORMATS)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_come_back_as_written(folder, name, dtype):
    values = matrix(dtype=dtype)
    write(folder / name, values)
    rows = open_vectors(folder / name)
    assert rows.shape == (40, 6)
    assert len(rows) == 40
    assert rows.dtype == dtype
    expected = values.astype(np.float32)
    for index in (
        slice(None),
        slice(5, 31),
        slice(30, None, -7),
        slice(9, 9),
        [],
        [3],
        [39, 0, 3, -1, 3],
        np.arange(9),
    ):
        assert same(rows[index], expected[np.asarray(index, dtype=int) if isinstance(index, list) else index])
    assert same(pickle.loads(pickle.dumps(rows))[2:4], expected[2:4])
    assert same(load_vectors(folder / name), expected)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=ANY_FLOATS)
def test_any_floats_come_back_bit_for_bit(folder, name, values):
    write(folder / f"any {name}", values)
    assert same(load_vectors(folder / f"any {name}"), values)


def test_bfloat16_and_other_layouts(tmp_path):
    tensor = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    save_file({"x": tensor.bfloat16()}, tmp_path / "a.safetensors")
    torch.save({"w": torch.nn.Parameter(tensor.bfloat16().T.contiguous().T), "step": 3}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        rows = open_vectors(tmp_path / name)
        assert rows.dtype == "bfloat16"
        assert same(rows[[8, 0]], tensor.bfloat16().float().numpy()[[8, 0]])
    fortran = np.asfortranarray(matrix(dtype=">f4"))
    np.save(tmp_path / "a.npy", fortran)
    np.savez(tmp_path / "a.npz", fortran)
    for name in ("a.npy", "a.npz"):
        assert same(open_vectors(tmp_path / name)[3:9], matrix()[3:9])


def test_one_of_several_is_chosen(tmp_path, refuses):
    left, right = matrix(), 2 * matrix()
    np.savez(tmp_path / "a.npz", left=left, right=right)
    save_file({"left": torch.from_numpy(left), "right": torch.from_numpy(right)}, tmp_path / "a.safetensors")
    torch.save({"left": torch.from_numpy(left), "right": torch.from_numpy(right)}, tmp_path / "a.pt")
    write_table(
        table(list(left)).append_column("left", [list(left)]).append_column("right", [list(right)]),
        tmp_path / "a.arrow",
    )
    for name in ("a.npz", "a.safetensors", "a.pt", "a.arrow"):
        assert same(load_vectors(tmp_path / name, "right"), right)
        with refuses("must be exactly one", "'left', 'right']", "as `key`"):
            open_vectors(tmp_path / name)
        with refuses("`key` must name", "'middle'", "Choose one of them"):
            open_vectors(tmp_path / name, "middle")
    with refuses("column of lists of floats", "`key` is 'id'", "Write one embedding a row"):
        open_vectors(tmp_path / "a.arrow", "id")
    write(tmp_path / "b.npy", left)
    write(tmp_path / "b.pt", left)
    for name in ("b.npy", "b.pt"):
        with refuses("`key` chooses among several", "'left'", "Leave it out"):
            open_vectors(tmp_path / name, "left")


def test_missing_numbers_in_a_column_are_nan(tmp_path):
    write_table(table([[1.0, None], [2.0, 3.0]]), tmp_path / "a.parquet")
    rows = open_vectors(tmp_path / "a.parquet")
    assert np.isnan(rows[:1]).tolist() == [[False, True]]
    assert check_rows(rows)[1]["nan"] == 1


def test_a_changed_parquet_file_is_read_anew(tmp_path):
    write(tmp_path / "a.parquet", matrix())
    open_vectors(tmp_path / "a.parquet")
    write(tmp_path / "a.parquet", 2 * matrix(30))
    assert same(load_vectors(tmp_path / "a.parquet"), 2 * matrix(30))


def bad_files(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Write what must be refused; return each file's rule, what was received, and the remedy."""
    import pyarrow as pa

    floats, stack = "must be a floating-point matrix", "Stack one embedding a row"
    expected = {}
    for suffix in (".npy", ".npz", ".safetensors", ".pt"):
        write(folder / f"whole{suffix}", np.ones((3, 2), dtype=np.int64))
        write(folder / f"flat{suffix}", np.ones(3, dtype=np.float32))
        write(folder / f"none{suffix}", np.ones((0, 2), dtype=np.float32))
        write(folder / f"narrow{suffix}", np.ones((2, 0), dtype=np.float32))
        expected |= {
            f"whole{suffix}": (floats, "int64", stack),
            f"flat{suffix}": (floats, "[3]", stack),
            f"none{suffix}": ("at least one row", "has none", "Save it again"),
            f"narrow{suffix}": (floats, "[2, 0]", stack),
        }
    for suffix in FORMATS:
        write(folder / f"fixed{suffix}", matrix())
        content = (folder / f"fixed{suffix}").read_bytes()
        for number, damaged in enumerate([b"", content[:5], content[: len(content) // 2], content[:-9], b"x" * 400]):
            if suffix == ".arrow" and number == 3:
                continue  # the mark at a stream's end may be missing
            (folder / f"{number}{suffix}").write_bytes(damaged)
            expected[f"{number}{suffix}"] = ("must", f"{number}{suffix}", "again")
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    np.savez(folder / "objects.npz", np.array([["a", None]], dtype=object))
    torch.save([torch.ones(2, 2)], folder / "list.pt")
    torch.save({"a": 1}, folder / "numbers.pt")
    torch.save(Path("code"), folder / "code.pt")
    torch.save(torch.eye(3).to_sparse(), folder / "sparse.pt")
    torch.save(torch.ones(3, 3), folder / "old.pt", _use_new_zipfile_serialization=False)
    write_table(table([[1.0], [2.0, 3.0]]), folder / "ragged.parquet")
    write_table(table([[1.0], None]), folder / "null.arrow")
    write_table(table([[], []], pa.list_(pa.float32())), folder / "empty.feather")
    write_table(table([[1, 2]]), folder / "whole.parquet")
    write_table(table(["a"]), folder / "text.arrow")
    lists, ragged = "must be a column of lists of floats", "must be lists of one length"
    return expected | {
        "objects.npy": ("one plain array", "objects.npy", "numpy.save"),
        "objects.npz": (floats, "object", stack),
        "list.pt": ("a tensor or a dict of tensors", "a list", "torch.save"),
        "numbers.pt": ("a tensor or a dict of tensors", "a dict", "torch.save"),
        "code.pt": ("a tensor or a dict of tensors", "code.pt", "torch.save"),
        "sparse.pt": (floats, "sparse", stack),
        "old.pt": ("a tensor or a dict of tensors", "old.pt", "torch.save"),
        "ragged.parquet": (ragged, "ragged.parquet", "Drop such rows"),
        "null.arrow": (ragged, "2 rows", "Drop such rows"),
        "empty.feather": (ragged, "2 rows", "Drop such rows"),
        "whole.parquet": (lists, "int64", "Write one embedding a row"),
        "text.arrow": (lists, "string", "Write one embedding a row"),
    }


def test_bad_files_are_named(tmp_path, refuses):
    expected = bad_files(tmp_path)
    assert len(expected) > 50
    for name, parts in expected.items():
        with refuses(*parts):
            load_vectors(tmp_path / name)
        with refuses("must", name, "."):
            load_vectors(tmp_path / name)
    with refuses("must be an existing file", str(tmp_path), "Check the path", kind=FileNotFoundError):
        open_vectors(tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    with refuses(".npy or .safetensors file (or .npz, .pt", "a.csv", "numpy.save"):
        open_vectors(tmp_path / "a.csv")


def npz(file: Path, shape: str, content: bytes, compression: int) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x.npy", head + content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", ["(1000000000, 1000000)", "(3, 3)", "(-2, -2)"])
def test_an_array_larger_than_its_file_is_refused_before_it_is_allocated(tmp_path, refuses, shape, compression):
    npz(tmp_path / "a.npz", shape, bytes(16), compression)
    with refuses("must be", "a.npz[x]", "."):
        open_vectors(tmp_path / "a.npz")
    npz(tmp_path / "a.npz", "(2, 2)", bytes(16), compression)
    assert open_vectors(tmp_path / "a.npz").shape == (2, 2)


def test_what_exceeds_the_memory_is_refused(tmp_path, refuses, monkeypatch):
    psutil = pytest.importorskip("psutil")
    for name in ("deflated.npz", "lz4.feather", "a.feather", "a.arrow", "a.npy"):
        write(tmp_path / name, matrix(400))
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    for name in ("deflated.npz", "lz4.feather"):
        with refuses("must fit the free memory", f"{name}", "Save it with" if "npz" in name else "without compression"):
            open_vectors(tmp_path / name)
    for name in ("a.feather", "a.arrow", "a.npy"):
        assert open_vectors(tmp_path / name)[:].shape == (400, 6)
        with refuses("must fit the free memory", "9,600 bytes of 1,000", "open_vectors"):
            load_vectors(tmp_path / name)


def test_a_missing_package_is_named(tmp_path, refuses, monkeypatch):
    write(tmp_path / "a.parquet", matrix())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refuses("read by datasets", "a.parquet", "pip install 'latticegnn[datasets]'", kind=ModuleNotFoundError):
        open_vectors(tmp_path / "a.parquet")


def test_bad_indices_and_a_lost_file(tmp_path, refuses):
    write(tmp_path / "a.npy", matrix())
    rows = open_vectors(tmp_path / "a.npy")
    for index in ([40], [-41], 3, [0.5], [True, False], [[1, 2]], "a"):
        with refuses("chosen by a slice or a list", repr(index), "rows[[3]]"):
            rows[index]
    (tmp_path / "a.npy").unlink()
    with refuses("must stay readable", "a.npy", "Restore the file"):
        rows[:1]
