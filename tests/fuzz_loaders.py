"""Damage files of every format that is read, and see that the loaders answer with an error of ours, or load.

Run as `python tests/fuzz_loaders.py --files 10000 --seed 0`. Whatever else a loader raises is printed with its format
and number, which `--only FORMAT:NUMBER` repeats; the exit status is then 1. Another loader is one more line in
`LOADERS`.
"""

import argparse
import csv
import gzip
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

HANDLED = (ValueError, FileNotFoundError, ModuleNotFoundError)
MATRIX = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
NUMBERS = [b"0", b"-1", b"1000000000000", b"18446744073709551616", b"nan", b"1e999", b"", b"7"]


def safetensors(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.from_numpy(MATRIX).bfloat16()}, file)


def table(file: Path) -> None:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    columns = pa.table({"text": ["a b"] * len(MATRIX), "x": MATRIX.tolist()})
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(columns, file)
    elif file.suffix == ".feather":
        pyarrow.feather.write_feather(columns, file)
    else:
        with pa.ipc.new_stream(file, columns.schema) as stream:
            stream.write_table(columns)


def words(file: Path) -> None:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(MATRIX.shape[1])
    vectors.add_vectors([f"wörd{number}" for number in range(len(MATRIX))], MATRIX)
    name = file.name
    vectors.save_word2vec_format(str(file), binary=file.suffix == ".bin", write_header="glove" not in name)


def rows(file: Path) -> None:
    """Open a file and read it both ways."""
    from latticegnn.data import check_rows, open_vectors

    opened = open_vectors(file, "x" if file.suffix in (".npz", ".pt") else None)
    check_rows(opened)
    opened[[0, -1]]


def encoder(file: Path) -> None:
    """Read word vectors and embed with them."""
    from latticegnn.data import WordVectors

    WordVectors(file, unknown="skip").encode(["wörd1 wörd2"])


def texts(file: Path) -> None:
    """Write a few rows in the format that the name says."""
    pairs = [(f"Wörd {number}, said «she»", f'an "answer"\n{number}') for number in range(8)]
    if "fields" in file.name and ".csv" in file.name:
        stream = io.StringIO()
        csv.writer(stream).writerows([("q", "a"), *pairs])
        content = stream.getvalue()
    elif "fields" in file.name:
        content = "\n".join(json.dumps({"q": q, "a": {"text": a}}) for q, a in pairs)
    elif "turns" in file.name:
        talk = [{"role": "ab"[k % 2], "text": q} for k, (q, _) in enumerate(pairs)]
        content = "\n".join(json.dumps({"turns": talk[k:]}) for k in range(4))
    else:
        content = "\n".join(f"Ann: {q}" + "\n" * (k % 3 == 2) for k, (q, _) in enumerate(pairs))
    encoded = content.encode()
    file.write_bytes(gzip.compress(encoded) if file.suffix == ".gz" else encoded)


def reader(file: Path) -> None:
    """Read all rows of a file of texts."""
    from latticegnn.data import read_texts

    if "fields" in file.name:
        list(read_texts(file, input="q", target="a" if ".csv" in file.name else "a.text"))
    elif "turns" in file.name:
        list(read_texts(file, turns="turns"))
    else:
        talk = "talk" in file.name
        list(read_texts(file, "dialogue" if talk else "text", speakers=talk))


def vocabulary(file: Path) -> None:
    from latticegnn.data import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train(["the cat sits", "a dog sings", "wörds"], "bpe", 300).save(folder)
        shutil.copy(Path(folder) / "tokenizer.json", file)
        shutil.copy(Path(folder) / "tokenizer_config.json", file.parent)


def tokenizer(file: Path) -> None:
    """Load a tokenizer from a folder that holds a file, and use it."""
    from latticegnn.data import Tokenizer

    folder = file.with_name(f"{file.name}.folder")
    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / "tokenizer.json")
    shutil.copy(file.parent / "tokenizer_config.json", folder)
    try:
        loaded = Tokenizer.load(folder)
        loaded.decode(loaded.encode(["the cat <pad> wörds"], 16)[0])
    finally:
        shutil.rmtree(folder)


#: Name of a file → what writes a sound one, what reads it.
LOADERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "x.npy": (lambda file: np.save(file, MATRIX), rows),
    "x.npz": (lambda file: np.savez(file, x=MATRIX, y=MATRIX), rows),
    "deflated.npz": (lambda file: np.savez_compressed(file, x=MATRIX), rows),
    "x.safetensors": (safetensors, rows),
    "x.pt": (lambda file: torch.save({"x": torch.from_numpy(MATRIX), "n": 3}, file), rows),
    "x.parquet": (table, rows),
    "x.arrow": (table, rows),
    "x.feather": (table, rows),
    "x.bin": (words, encoder),
    "x.txt": (words, encoder),
    "glove.txt": (words, encoder),
    "lines.txt": (texts, reader),
    "lines.txt.gz": (texts, reader),
    "talk.txt": (texts, reader),
    "fields.jsonl": (texts, reader),
    "turns.jsonl": (texts, reader),
    "fields.csv": (texts, reader),
    "fields.csv.gz": (texts, reader),
    "tokenizer.json": (vocabulary, tokenizer),
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut, insert, repeat, or overwrite a number, one to three times; half of it near either end."""
    for _ in range(draw.randint(1, 3)):
        near = draw.choice([len(content), min(len(content), 200)])
        place = draw.randrange(near + 1)
        if draw.random() < 0.3:
            place = len(content) - place
        kind = draw.choice(["flip", "flip", "cut", "insert", "repeat", "remove", "number"])
        if kind == "flip":
            spoilt = bytes(byte ^ (1 << draw.randrange(8)) for byte in content[place : place + draw.randint(1, 4)])
            content = content[:place] + spoilt + content[place + len(spoilt) :]
        elif kind == "cut":
            content = content[:place]
        elif kind == "insert":
            content = content[:place] + draw.randbytes(draw.randint(1, 9)) + content[place:]
        elif kind == "repeat":
            content = content[:place] + content[max(0, place - draw.randint(1, 99)) :]
        elif kind == "remove":
            content = content[:place] + content[place + draw.randint(1, 99) :]
        else:
            found = draw.choice(list(re.finditer(rb"\d+", content[:300])) or [None])
            if found:
                content = content[: found.start()] + draw.choice(NUMBERS) + content[found.end() :]
    return content


def attempt(name: str, number: int, seed: int, sound: bytes, folder: Path) -> str:
    """Load one damaged file; return "loaded", "refused" or what else came."""
    load = LOADERS[name][1]
    file = folder / f"{number}-{name}"
    file.write_bytes(damaged(sound, random.Random(f"{seed}/{name}/{number}")))
    try:
        load(file)
    except HANDLED as error:
        # An error of ours is one message in three sentences or clauses and names the file.
        return "refused" if file.name in str(error) else f"{type(error).__name__} without the file: {error}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    finally:
        file.unlink()
    return "loaded"


def main() -> int:
    """Damage and load; see the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10000, help="damaged files of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="FORMAT, or FORMAT:NUMBER for a single file", default="")
    options = parser.parse_args()
    warnings.simplefilter("error")
    logging.getLogger("latticegnn").setLevel(logging.ERROR)  # it counts the dropped words of every file that loads
    wanted, _, single = options.only.partition(":")
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = f"{scratch}/cache"  # read when datasets is first imported
        folder = Path(scratch)
        for name in [name for name in LOADERS if wanted in ("", name)]:
            LOADERS[name][0](folder / name)
            sound = (folder / name).read_bytes()
            LOADERS[name][1](folder / name)
            counts[name] = Counter()
            for number in [int(single)] if single else range(max(1, options.files // len(LOADERS))):
                came = attempt(name, number, options.seed, sound, folder)
                if came not in ("loaded", "refused"):
                    print(f"unhandled: seed {options.seed}, {name}:{number}: {came[:300]}", flush=True)
                    came = "unhandled"
                counts[name][came] += 1
    print(f"{'format':<16}{'files':>8}{'loaded':>8}{'refused':>9}{'unhandled':>11}")
    for name, count in counts.items():
        print(f"{name:<16}{count.total():>8}{count['loaded']:>8}{count['refused']:>9}{count['unhandled']:>11}")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB of memory")
    return int(any(count["unhandled"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
