"""The data of a run: rows of teacher embeddings in three splits, checked, counted and served in batches."""

import hashlib
import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from latticegnn.data.build import build_teacher, check_settings
from latticegnn.data.mixture import (
    TEXT,
    VECTORS,
    Source,
    Survey,
    Task,
    TextFields,
    VectorFields,
    digest_of,
    embedded,
    mix,
)
from latticegnn.data.partition import cut
from latticegnn.data.rows import require_memory
from latticegnn.data.sampler import EpochSampler
from latticegnn.data.sources import sha256_of
from latticegnn.data.split import EmbeddingSplit, SplitRows, StackedRows, as_is, gather
from latticegnn.data.teacher_card import told
from latticegnn.data.vectors import check_rows, checked_matrix, sound_rows
from latticegnn.data.words import WordVectors

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader

    from latticegnn.data.cache import Encoder

logger = logging.getLogger("latticegnn")

IN_MEMORY = 2**28
"""Bytes of prepared embeddings, as float32, that are read into memory; of larger files the training rows stay there."""


class EmbeddingData:
    """Teacher embeddings of one or several sources in three splits, and batches of them.

    `prepare` reads the texts, embeds them through the cache, drops rows that are NaN, infinite or zero and rows whose
    input already occurred (in the same split or an earlier one), and counts what it dropped. Prepared embeddings pass
    the same checks before they are cut into splits; of a file larger than `IN_MEMORY` the training rows are read from
    the disk batch by batch. Rows of several sources are mixed, and no input of a held-out split is trained on.

    Args:
        task: What the rows are, see `Source`, as for `limit`, `path`, `max_total_samples`, `weight`, `text` and
            `vectors`.
        limit: Greatest number of rows (a pair is one row) in all splits together, at least 3; None for all.
        teacher: A source as `Teacher` takes it, the settings of a `Teacher`, those of `WordVectors` (with `path` in
            place of `source`), or any `Encoder`; unused by `"vectors"`.
        batch_size: B, at least 1; of the batches served, over all processes, and of the teacher's forward passes.
        seed: Decides splits, sample and the order of training rows.
        path: The file of the tasks `"file"` and `"vectors"`; None for the others.
        cache_dir: Root of the embedding cache; None for its default.
        expected_dim: The D that the model was built for; a mismatch is an error. None accepts any.
        progress: Show a progress bar while embedding.
        max_total_samples: Rows of the source after which reading stops.
        weight: How often an epoch visits a training row of the source, on average.
        text: How a file of texts is read.
        vectors: Where prepared embeddings lie in their file.
        more: Further sources, mixed in.
        cache_max_gb: Size that the embedding cache is cut back to, in gigabytes; None for no limit.
        num_workers: Processes that gather batches ahead; 0 gathers them where they are asked for.

    Attributes:
        splits: After `prepare`: `"train"`, `"validation"`, `"test"`.
        dropped: After `prepare`: rows dropped by reason, `"nan"`, `"inf"`, `"zero"`, `"duplicate"`, or the reader's.
        encoder: After `prepare`: the teacher; None where no text was read.

    Raises:
        ValueError: When settings contradict each other; from `prepare`, also when the dimension is not the expected
            one, the embeddings do not fit the memory, or a split keeps no rows.
        FileNotFoundError: From `prepare`, when a file is missing.
    """

    def __init__(
        self,
        task: Task = "qa",
        limit: int | None = 2000,
        teacher: "str | Mapping[str, Any] | Encoder" = "packaged:minilm",
        batch_size: int = 32,
        seed: int = 0,
        path: str | Path | None = None,
        cache_dir: str | Path | None = None,
        expected_dim: int | None = None,
        progress: bool = True,
        max_total_samples: int | None = None,
        weight: float = 1.0,
        text: TextFields = TEXT,
        vectors: VectorFields = VECTORS,
        more: Sequence[Source] = (),
        cache_max_gb: float | None = None,
        num_workers: int = 0,
    ) -> None:
        """Check the settings; nothing is read before `prepare`."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received {batch_size}. Try 32.")
        if num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0; received {num_workers}. 0 is the default.")
        if not 0 <= seed < 2**32:
            raise ValueError(f"`seed` must be a whole number from 0 to 2³² − 1; received {seed}. 0 is the default.")
        if cache_max_gb is not None and not 0 <= cache_max_gb < math.inf:
            raise ValueError(f"`cache_max_gb` must be at least 0 and finite; received {cache_max_gb}. None sets none.")
        if teacher is None:
            raise ValueError("`teacher` must be a source, settings or an encoder; received None. Leave it out.")
        if isinstance(teacher, Mapping):
            check_settings(teacher)
        first = Source(task, None if path is None else Path(path), limit, max_total_samples, weight, text, vectors)
        self.sources = [first, *more]
        if not any(source.weight for source in self.sources):
            raise ValueError(
                f"One source at least must be trained on; received the weights {[s.weight for s in self.sources]}. "
                "Raise one above 0."
            )
        self.teacher = teacher
        self.batch_size = batch_size
        self.seed = seed
        self.cache_dir = cache_dir
        self.cache_max_gb = cache_max_gb
        self.expected_dim = expected_dim
        self.progress = progress
        self.num_workers = num_workers
        self.dropped: dict[str, int] = {}
        self.encoder: Encoder | None = None
        self._splits: dict[str, EmbeddingSplit] = {}
        self._parts: list[tuple[int, float]] = []
        self._source_sha256 = ""

    @classmethod
    def from_arrays(
        cls,
        inputs: np.ndarray,
        targets: np.ndarray | None = None,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        expected_dim: int | None = None,
    ) -> "EmbeddingData":
        """Return prepared data from arrays in memory, with the checks of `prepare`.

        Args:
            inputs: Embeddings.
            targets: The embedding wanted for each input; None for autoencoding.
            limit: As for the class.
            batch_size: As for the class.
            seed: As for the class.
            expected_dim: As for the class.

        Shapes:
            inputs [n, D], targets [n, D].
        """
        data = cls("vectors", limit, batch_size=batch_size, seed=seed, path="<arrays>", expected_dim=expected_dim)
        dropped: Counter[str] = Counter(nan=0, inf=0, zero=0, duplicate=0)
        wanted = inputs if targets is None else targets
        splits, sha256 = data._from_arrays("the array of inputs", inputs, wanted, limit, dropped)
        data._finish([splits], dropped, [sha256])
        return data

    @property
    def task(self) -> Task:
        """The task of the first source."""
        return self.sources[0].task

    @property
    def splits(self) -> dict[str, EmbeddingSplit]:
        """The three splits; an error before `prepare`."""
        if not self._splits:
            raise ValueError("Data must be prepared before use; `splits` was asked for first. Call prepare().")
        return self._splits

    @property
    def dim(self) -> int:
        """D, the number of channels of an embedding."""
        return int(self.splits["train"].inputs.shape[1])

    @property
    def pairs(self) -> bool:
        """Whether the targets are answers, other than the inputs."""
        train = self.splits["train"]
        return train.targets is not train.inputs

    @property
    def epoch_rows(self) -> int:
        """Rows that an epoch visits, those left over by the last whole batch included."""
        return sum(round(count * weight) for count, weight in self._parts)

    def prepare(self) -> None:
        """Read, embed, check, cut and mix the data; a second call does nothing."""
        if self._splits:
            return
        dropped: Counter[str] = Counter(nan=0, inf=0, zero=0, duplicate=0)
        reads = any(source.task != "vectors" for source in self.sources)
        teacher = self._built_teacher() if reads else None
        taken = [
            self._take_vectors(source, dropped) if teacher is None or source.task == "vectors"
            else self._take_texts(source, teacher, dropped)
            for source in self.sources
        ]  # fmt: skip
        self._finish([splits for splits, _ in taken], dropped, [sha256 for _, sha256 in taken])

    def survey(self) -> Survey:
        """Read the sources, load the teacher and check that all fit; of the texts only one is embedded.

        Raises:
            ValueError: As `prepare`.
            FileNotFoundError: As `prepare`.
        """
        if all(source.task == "vectors" for source in self.sources):
            self.prepare()
            return Survey(", ".join(str(source.path) for source in self.sources), self._rows(), self._parts)
        from latticegnn.data.cache import EmbeddingCache

        EmbeddingCache(self.cache_dir).require_writable()
        teacher = self._built_teacher()
        self._check_dim(teacher.dim, f"teacher {teacher.source!r}")
        found, rows, parts = [], Counter[str](), []
        for source in self.sources:
            if source.task == "vectors":
                splits, _ = self._take_vectors(source, Counter())
                sizes = {name: len(split) for name, split in splits.items()}
                found.append(str(source.path))
            else:
                corpus = source.corpus(self.seed)
                sizes = {name: len(split) for name, split in corpus.splits.items()}
                texts = corpus.splits["train"].inputs  # one loads a model's weights; word vectors may refuse any
                teacher.encode(texts if isinstance(teacher, WordVectors) else texts[:1])
                found.append(f"corpus {corpus.name}")
            rows.update(sizes)
            parts.append((sizes["train"], source.weight))
        return Survey(f"{', '.join(found)}, teacher {teacher.source} of {teacher.dim} dimensions", dict(rows), parts)

    def dataloader(
        self,
        split: Literal["train", "validation", "test"],
        order_seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> "StatefulDataLoader":
        """Return batches of one split: the training rows shuffled anew each epoch, the others in order.

        The order of the training rows follows from `order_seed` (the data's seed where it is None) and the epoch; an
        epoch of them is as many whole batches as there are. See `EpochSampler`.

        A batch is a dict: `"input"` [B, D], `"target"` [B, D] and `"index"` [B], the rows' places in the split.
        `state_dict` and `load_state_dict` of the loader resume within an epoch, exactly.

        Args:
            split: Whose rows.
            order_seed: Decides the order of training rows.
            rank: Number of this process.
            world: Number of processes that share each batch; each serves B / world rows of it.
        """
        from torchdata.stateful_dataloader import StatefulDataLoader

        rows, shuffle = SplitRows(self.splits[split]), split == "train"
        seed = self.seed if order_seed is None else order_seed
        parts = self._parts if shuffle else None
        sampler = EpochSampler(len(rows), seed, shuffle, self.batch_size, rank, world, parts)
        # Its own generator: a loader draws a number per pass, which must not come from the caller's.
        generator = torch.Generator().manual_seed(self.seed)
        with warnings.catch_warnings():
            # torchdata calls a function that torch has deprecated; the caller can do nothing about it.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated", category=UserWarning)
            return StatefulDataLoader(
                rows,
                self.batch_size // world,
                sampler=sampler,
                collate_fn=as_is,
                generator=generator,
                num_workers=self.num_workers,
            )

    def card(self) -> dict[str, Any]:
        """Describe the data in plain numbers and strings, fit for JSON."""
        first = self.sources[0]
        return {
            "task": first.task,
            "limit": first.limit,
            "seed": self.seed,
            "dim": self.dim,
            "rows": self._rows(),
            "groups": {name: len(set(split.groups)) for name, split in self.splits.items()},
            "dropped": dict(self.dropped),
            "sources": [
                {"task": source.task, "path": source.path and str(source.path), "train_rows": rows, "weight": weight}
                for source, (rows, weight) in zip(self.sources, self._parts, strict=True)
            ],
            "teacher": told(self.encoder),
            "source_sha256": self._source_sha256,
        }

    def _rows(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.splits.items()}

    def _take_texts(
        self, source: Source, teacher: "Encoder", dropped: Counter[str]
    ) -> tuple[dict[str, EmbeddingSplit], str]:
        from latticegnn.data.cache import EmbeddingCache

        corpus = source.corpus(self.seed)
        dropped.update({reason: count for reason, count in corpus.skipped.items() if reason != "duplicate"})
        texts = [text for split in corpus.splits.values() for text in (*split.inputs, *(split.targets or ()))]
        self._check_dim(teacher.dim, f"teacher {teacher.source!r}")
        # Once as the cache gives them, once as rows of splits.
        name = f"{len(texts):,} embeddings of {teacher.dim} numbers"
        require_memory(2 * 4 * len(texts) * teacher.dim, name, "Lower `limit`, or prepare a file of vectors")
        most = None if self.cache_max_gb is None else round(1e9 * self.cache_max_gb)
        vectors = EmbeddingCache(self.cache_dir, most).embed(teacher, texts, self.batch_size, self.progress)
        self.encoder = teacher
        return embedded(corpus, vectors, dropped), corpus.sha256

    def _take_vectors(self, source: Source, dropped: Counter[str]) -> tuple[dict[str, EmbeddingSplit], str]:
        assert source.path is not None
        inputs, targets = source.matrices()
        self._check_dim(inputs.shape[1], inputs.name)
        n = min(len(inputs), source.max_total_samples or len(inputs))
        if 4 * n * inputs.shape[1] <= IN_MEMORY:
            given = inputs[:n]
            wanted = given if targets is inputs else targets[:n]
            return self._from_arrays(inputs.name, given, wanted, source.limit, dropped)
        kept, counts = check_rows(inputs, None if targets is inputs else targets, n)
        dropped.update(counts)
        splits = {}
        for name, rows in cut(len(kept), source.limit, self.seed).items():
            stacked = StackedRows([(inputs, kept[rows])])
            split = EmbeddingSplit(stacked, stacked if targets is inputs else StackedRows([(targets, kept[rows])]))
            small = name != "train" or 4 * len(rows) * inputs.shape[1] <= IN_MEMORY
            splits[name] = EmbeddingSplit(*split.tensors()) if small else split
        size = 4 * len(splits["train"]) * inputs.shape[1] / 1e9
        if isinstance(splits["train"].inputs, StackedRows):
            logger.info("%s: %.1f GB of training rows stay on disk and are read batch by batch", inputs.name, size)
        files = dict.fromkeys((source.path, source.vectors.target_path or source.path))
        return splits, digest_of([sha256_of(file) for file in files])

    def _from_arrays(
        self, name: str, inputs: np.ndarray, targets: np.ndarray, limit: int | None, dropped: Counter[str]
    ) -> tuple[dict[str, EmbeddingSplit], str]:
        same = targets is inputs
        inputs = checked_matrix(inputs, name)
        wanted = inputs if same else checked_matrix(targets, "the array of targets")
        if inputs.shape != wanted.shape:
            raise ValueError(
                f"Inputs and targets must have the same shape [n, D]; received {list(inputs.shape)} and "
                f"{list(wanted.shape)}. Give one target a row, from the same teacher."
            )
        self._check_dim(inputs.shape[1], name)
        kept = np.asarray(sound_rows(inputs, wanted, set(), dropped), dtype=np.int64)
        parts = cut(len(kept), limit, self.seed)
        splits = {part: gather(inputs, wanted, kept[rows].tolist(), [], [], []) for part, rows in parts.items()}
        digest = hashlib.sha256(inputs.tobytes())
        if not same:
            digest.update(wanted.tobytes())
        return splits, digest.hexdigest()

    def _finish(self, parts: list[dict[str, EmbeddingSplit]], dropped: Counter[str], sha256: list[str]) -> None:
        trained, splits = [part["train"] for part in parts], parts[0]
        if len(parts) > 1:
            dims = {part["train"].inputs.shape[1] for part in parts}
            if len(dims) > 1:
                raise ValueError(
                    f"All sources of a mixture must have one dimension; received {sorted(dims)}. Embed them by the "
                    "same teacher."
                )
            splits, counts = mix(parts, [source.weight for source in self.sources], dropped)
        else:
            counts = [len(split) for split in trained]
        self.dropped = dict(dropped)
        for name, split in splits.items():
            if len(split) == 0:
                raise ValueError(
                    f"Each split must keep at least 1 row; {name!r} has none after dropping {self.dropped}. "
                    "Raise `limit`, or repair the source."
                )
        self._splits = splits
        self._parts = [(count, source.weight) for count, source in zip(counts, self.sources, strict=True)]
        self._source_sha256 = digest_of(sha256)
        if any(self.dropped.values()):
            logger.warning("dropped rows by reason: %s", {reason: n for reason, n in self.dropped.items() if n})

    def _built_teacher(self) -> "Encoder":
        return build_teacher(self.teacher) if isinstance(self.teacher, str | Mapping) else self.teacher

    def _check_dim(self, dim: int, source: str) -> None:
        if self.expected_dim is not None and dim != self.expected_dim:
            raise ValueError(
                f"The embeddings' dimension must be the model's: {self.expected_dim} expected; {source} gives {dim}. "
                f"Set embedding_dim to {dim}, or choose another teacher."
            )
