"""The embedding cache: exact hits, no stale vectors, loud damage, safe under crash and crowd."""

import errno
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latticegnn.data import CacheError, EmbeddingCache, cache

ROOT = Path(__file__).parents[2]


class HashTeacher:
    """A teacher whose vectors are a text's hash: known answers, and a record of what it was asked."""

    source, dim = "hash", 8

    def __init__(self, fingerprint: str = "a" * 64, salt: str = "", delay: float = 0.0) -> None:
        self.fingerprint = fingerprint
        self.salt = salt
        self.delay = delay
        self.asked: list[str] = []

    def vector(self, text: str) -> np.ndarray:
        digest = hashlib.sha256((self.salt + text).encode()).digest()
        return np.frombuffer(digest, dtype=np.uint32).astype(np.float32) / 2**32

    def encode(self, texts, batch_size=32, progress=False):
        time.sleep(self.delay)
        self.asked += texts
        return np.stack([self.vector(text) for text in texts])


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


def test_a_hit_is_bit_identical_and_asks_nobody(tmp_path):
    texts = [f"text {n % 700}" for n in range(900)]
    first = HashTeacher()
    vectors = EmbeddingCache(tmp_path).embed(first, texts)
    assert len(first.asked) == len(set(first.asked)) == 700
    assert len(shards(tmp_path)) == 2
    np.testing.assert_array_equal(vectors, np.stack([first.vector(text) for text in texts]))
    second = HashTeacher()
    again = EmbeddingCache(tmp_path).embed(second, texts[::-1])
    assert again.dtype == np.float32
    assert again[::-1].tobytes() == vectors.tobytes()
    assert second.asked == []


def test_only_new_texts_are_computed(tmp_path):
    EmbeddingCache(tmp_path).embed(HashTeacher(), ["a", "b"])
    teacher = HashTeacher()
    EmbeddingCache(tmp_path).embed(teacher, ["b", "c", "a", "c"])
    assert teacher.asked == ["c"]


def test_another_fingerprint_never_gets_old_vectors(tmp_path):
    store = EmbeddingCache(tmp_path)
    old = store.embed(HashTeacher("a" * 64), ["x"])
    changed = HashTeacher("b" * 64, salt="changed")
    assert not np.array_equal(store.embed(changed, ["x"]), old)
    assert changed.asked == ["x"]


def test_a_real_teacher_round_trip(tmp_path, tiny):
    from latticegnn.data import Teacher

    teacher = Teacher(str(tiny()))
    texts = ["the cat sits", "a dog", "the cat sits"]
    vectors = EmbeddingCache(tmp_path).embed(teacher, texts)
    np.testing.assert_allclose(vectors, teacher.encode(texts), rtol=1e-4, atol=1e-5)
    assert EmbeddingCache(tmp_path).embed(teacher, texts).tobytes() == vectors.tobytes()
    assert EmbeddingCache(tmp_path).embed(teacher, []).shape == (0, 32)


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LATTICEGNN_CACHE", str(tmp_path / "here"))
    assert EmbeddingCache().root == tmp_path / "here"
    monkeypatch.delenv("LATTICEGNN_CACHE")
    assert EmbeddingCache().root == Path.home() / ".cache/latticegnn/embeddings"


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_shard_is_an_error(tmp_path, part):
    EmbeddingCache(tmp_path).embed(HashTeacher(), [f"text {n}" for n in range(300)])
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CacheError) as error:
        EmbeddingCache(tmp_path).embed(HashTeacher(), ["text 1"])
    explains(error, "must have the sha256 that is its name", str(shard), "Delete that file", "computed again")
    shard.unlink()
    EmbeddingCache(tmp_path).embed(HashTeacher(), ["text 1"])


@pytest.mark.parametrize("offset", [0, 8, 40, -1, -5000])
def test_one_flipped_bit_is_an_error(tmp_path, offset):
    EmbeddingCache(tmp_path).embed(HashTeacher(), [f"text {n}" for n in range(300)])
    (shard,) = shards(tmp_path)
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="Delete that file"):
        EmbeddingCache(tmp_path).embed(HashTeacher(), ["text 1"])


def test_a_shard_in_a_foreign_folder_is_an_error(tmp_path):
    EmbeddingCache(tmp_path).embed(HashTeacher("a" * 64), ["x"])
    (shard,) = shards(tmp_path)
    (tmp_path / ("b" * 64)).mkdir()
    moved = shard.rename(tmp_path / ("b" * 64) / shard.name)
    with pytest.raises(CacheError) as error:
        EmbeddingCache(tmp_path).embed(HashTeacher("b" * 64), ["x"])
    explains(error, "folder of its teacher", str(moved), "a" * 64, "delete it")


@pytest.mark.parametrize("after", [0, 100])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, after):
    def full(file: Path, content: bytes) -> None:
        file.write_bytes(content[:after])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    EmbeddingCache(tmp_path).embed(HashTeacher(), ["kept"])
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_through", full)
        with pytest.raises(CacheError) as error:
            EmbeddingCache(tmp_path).embed(HashTeacher(), ["lost"])
    explains(error, "must be writable", str(tmp_path), "No space left", "Free some space", "LATTICEGNN_CACHE")
    assert list((tmp_path / ("a" * 64)).iterdir()) == shards(tmp_path)
    teacher = HashTeacher()
    EmbeddingCache(tmp_path).embed(teacher, ["kept", "lost"])
    assert teacher.asked == ["lost"]


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError) as error:
        EmbeddingCache(tmp_path / "file").embed(HashTeacher(), ["x"])
    explains(error, "must be writable", str(tmp_path / "file"), "Not a directory", "another folder")
    with pytest.raises(CacheError) as error:
        EmbeddingCache(tmp_path / "file" / "below").require_writable()
    explains(error, "must be a folder that can be written", str(tmp_path / "file"), "LATTICEGNN_CACHE")
    EmbeddingCache(tmp_path / "new" / "below").require_writable()


def test_a_text_that_is_no_string(tmp_path):
    with pytest.raises(ValueError) as error:
        EmbeddingCache(tmp_path).embed(HashTeacher(), ["x", 3])
    explains(error, "must be a string", "text 1 is 3 of type int", "Convert or remove")
    with pytest.raises(ValueError) as error:
        EmbeddingCache(tmp_path).embed(HashTeacher(), "one string")
    explains(error, "must be a list", "'one string'", "[text]")


WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("cases", {file!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
from latticegnn.data import EmbeddingCache, cache
cache.SHARD_ROWS = 10
texts = ["text %d" % n for n in range({start}, {stop})]
EmbeddingCache({root!r}).embed(cases.HashTeacher(delay={delay}), texts)
"""


def worker(root: Path, start: int, stop: int, delay: float) -> subprocess.Popen:
    code = WORKER.format(file=__file__, root=str(root), start=start, stop=stop, delay=delay)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_two_processes_may_write_at_once(tmp_path):
    ranges = [(0, 200), (100, 300)]
    writers = [worker(tmp_path, start, stop, delay=0.01) for start, stop in ranges]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    teacher = HashTeacher()
    texts = [f"text {n}" for n in range(300)]
    vectors = EmbeddingCache(tmp_path).embed(teacher, texts)
    np.testing.assert_array_equal(vectors, np.stack([teacher.vector(text) for text in texts]))
    assert teacher.asked == []
    assert not list(tmp_path.glob("*/.*"))


def write_slowly(root: Path, start: int, stop: int) -> None:
    cache.SHARD_ROWS = 10
    EmbeddingCache(root).embed(HashTeacher(delay=0.02), [f"text {n}" for n in range(start, stop)])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_eight_writers_of_which_one_is_killed_ten_times(tmp_path):
    """Overlapping texts; at the end every vector is there, whole, and no shard is damaged."""
    processes = multiprocessing.get_context("fork")
    others = [processes.Process(target=write_slowly, args=(tmp_path, 40 * k, 40 * k + 400)) for k in range(7)]
    for other in others:
        other.start()
    draw, written = random.Random(0), []
    for _ in range(10):
        before = len(shards(tmp_path))
        victim = processes.Process(target=write_slowly, args=(tmp_path, 0, 4000))
        victim.start()
        victim.join(draw.uniform(0.05, 0.6))
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert victim.exitcode == -signal.SIGKILL, "it must have had more to do"
        written.append(len(shards(tmp_path)) - before)
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    assert sum(written) > 0
    teacher, store = HashTeacher(), EmbeddingCache(tmp_path)
    texts = [f"text {n}" for n in range(640)]  # what the seven had to do; they did it, whatever became of the eighth
    np.testing.assert_array_equal(store.embed(teacher, texts), np.stack([teacher.vector(text) for text in texts]))
    assert teacher.asked == []
    assert store.verify() == []


def fill(root: Path, count: int = 5) -> list[Path]:
    """Write so many shards of one text each, the first the one that was used longest ago."""
    files: list[Path] = []
    for n in range(count):
        EmbeddingCache(root).embed(HashTeacher(), [f"text {n}"])
        (new,) = set(shards(root)) - set(files)
        os.utime(new, (1000 + n, 1000 + n))
        files.append(new)
    return files


def test_what_was_used_longest_ago_is_pruned_first(tmp_path):
    files = fill(tmp_path)
    size = files[0].stat().st_size
    EmbeddingCache(tmp_path).embed(HashTeacher(), ["text 0"])  # a hit is a use
    assert EmbeddingCache(tmp_path).prune(3 * size) == 2 * size
    assert shards(tmp_path) == sorted([files[0], files[3], files[4]])
    assert EmbeddingCache(tmp_path).prune(0) == 3 * size
    assert shards(tmp_path) == []


def test_only_the_caches_own_files_are_pruned(tmp_path):
    """A root that holds other things, too: another's model, folders, notes."""
    (shard,) = fill(tmp_path, 1)
    others = [tmp_path / "bert" / "model.safetensors", shard.with_name("notes.txt"), shard.with_name(".draft.tmp")]
    (tmp_path / "bert").mkdir()
    (tmp_path / "empty").mkdir()
    for file in others:
        file.write_text("mine")
        os.utime(file, (0, 0))
    store = EmbeddingCache(tmp_path)
    assert [teacher.texts for teacher in store.stored()] == [1]
    assert store.verify() == []
    store.prune(0)
    assert shards(tmp_path) == others[:1]
    assert all(file.read_text() == "mine" for file in others)
    assert (tmp_path / "empty").is_dir()


def test_what_killed_writers_left_is_pruned_and_what_living_ones_write_is_not(tmp_path):
    (shard,) = fill(tmp_path, 1)
    old, young = (shard.with_name(f".{name * 32}.tmp") for name in ("0", "1"))
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert EmbeddingCache(tmp_path).prune(10**9) == 4
    assert sorted(shard.parent.iterdir()) == sorted([shard, young])


def test_a_cap_spares_what_the_call_itself_used(tmp_path):
    files = fill(tmp_path)
    size = files[0].stat().st_size
    store = EmbeddingCache(tmp_path, max_bytes=2 * size)
    teacher = HashTeacher()
    store.embed(teacher, ["text 0", "text 1", "text 2"])
    assert shards(tmp_path) == sorted(files[:3]), "more than the cap, but in use"
    store.embed(teacher, ["text 9"])
    assert teacher.asked == ["text 9"]
    assert len(shards(tmp_path)) == 2
    with pytest.raises(ValueError) as error:
        EmbeddingCache(tmp_path, max_bytes=-1)
    explains(error, "at least 0", "-1", "None to keep everything")


def test_what_is_stored_is_listed(tmp_path):
    assert EmbeddingCache(tmp_path / "none").stored() == []
    EmbeddingCache(tmp_path).embed(HashTeacher("a" * 64), [f"text {n}" for n in range(600)])
    EmbeddingCache(tmp_path).embed(HashTeacher("b" * 64), ["x"])
    for file in shards(tmp_path):
        os.utime(file, (2000, 2000) if file.parent.name[0] == "a" else (1000, 1000))
    first, second = EmbeddingCache(tmp_path).stored()
    size = sum(file.stat().st_size for file in shards(tmp_path))
    assert (first.fingerprint, first.source, first.texts, first.dim, first.used) == ("a" * 64, "hash", 600, 8, 2000)
    assert (second.fingerprint, second.texts, first.bytes + second.bytes) == ("b" * 64, 1, size)


def test_damage_is_found_and_named(tmp_path):
    files = fill(tmp_path, 4)
    store = EmbeddingCache(tmp_path)
    assert store.verify() == []
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"?")
    files[2].write_bytes(b"")
    (tmp_path / ("b" * 64)).mkdir()
    moved = files[3].rename(tmp_path / ("b" * 64) / files[3].name)
    assert store.verify() == sorted([files[1], files[2], moved])
    with pytest.raises(CacheError) as error:
        store.stored()
    explains(error, "must have the sha256", str(files[2]), "Delete that file")


def test_a_killed_run_resumes(tmp_path):
    process = worker(tmp_path, 0, 500, delay=0.1)
    deadline = time.monotonic() + 60
    while len(shards(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    finished = len(shards(tmp_path))
    assert 4 <= finished < 50
    teacher = HashTeacher()
    texts = [f"text {n}" for n in range(500)]
    vectors = EmbeddingCache(tmp_path).embed(teacher, texts)
    assert teacher.asked == texts[finished * 10 :]
    np.testing.assert_array_equal(vectors, np.stack([teacher.vector(text) for text in texts]))
