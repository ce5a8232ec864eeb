"""The data of a run: rows of teacher embeddings in three splits, checked, counted and served in batches."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from latticegnn.data.corpus import Corpus, check_limit, cut, questions_and_answers, sentences, text_file
from latticegnn.data.sampler import EpochSampler
from latticegnn.data.split import EmbeddingSplit, SplitRows, as_is, gather
from latticegnn.data.vectors import checked_matrix, load_vectors, sound_rows

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader

    from latticegnn.data.teacher import Teacher

logger = logging.getLogger("latticegnn")

Task = Literal["qa", "sentences", "file", "vectors"]


class EmbeddingData:
    """Teacher embeddings of a task in three splits, and batches of them.

    `prepare` reads the texts, embeds them through the cache, drops rows that are NaN, infinite or zero and rows whose
    input already occurred (in the same split or an earlier one), and counts what it dropped. Prepared embeddings pass
    the same checks before they are cut into splits.

    Args:
        task: `"qa"` (name and signature → first docstring sentence), `"sentences"` (autoencoding), `"file"` (a text
            file, one text per line, autoencoding) or `"vectors"` (a .npy or .safetensors file [n, D], autoencoding).
        limit: Greatest number of rows (a pair is one row) in all splits together, at least 3; None for all.
        teacher: A source as `Teacher` takes it, the settings of a `Teacher`, or a `Teacher`; unused by `"vectors"`.
        batch_size: B, at least 1; of the batches served, over all processes, and of the teacher's forward passes.
        seed: Decides splits, sample and the order of training rows.
        path: The file of the tasks `"file"` and `"vectors"`; None for the others.
        cache_dir: Root of the embedding cache; None for its default.
        expected_dim: The D that the model was built for; a mismatch is an error. None accepts any.
        progress: Show a progress bar while embedding.

    Attributes:
        splits: After `prepare`: `"train"`, `"validation"`, `"test"`.
        dropped: After `prepare`: rows dropped by reason, `"nan"`, `"inf"`, `"zero"`, `"duplicate"`.

    Raises:
        ValueError: When settings contradict each other; from `prepare`, also when the dimension is not the expected one
            or a split keeps no rows.
        FileNotFoundError: From `prepare`, when a file is missing.
    """

    def __init__(
        self,
        task: Task = "qa",
        limit: int | None = 2000,
        teacher: "str | Mapping[str, Any] | Teacher" = "packaged:minilm",
        batch_size: int = 32,
        seed: int = 0,
        path: str | Path | None = None,
        cache_dir: str | Path | None = None,
        expected_dim: int | None = None,
        progress: bool = True,
    ) -> None:
        """Check the settings; nothing is read before `prepare`."""
        if task not in get_args(Task):
            raise ValueError(f"`task` must be one of {list(get_args(Task))}; received {task!r}. 'qa' is the default.")
        if (path is None) == (task in ("file", "vectors")):
            remedy = "Name the file." if path is None else "Leave `path` out, or set task to 'file' or 'vectors'."
            raise ValueError(
                f"`path` belongs to the tasks 'file' and 'vectors'; received task {task!r}, path {path!r}. {remedy}"
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received {batch_size}. Try 32.")
        check_limit(limit)
        self.task: Task = task
        self.limit = limit
        self.teacher = teacher
        self.batch_size = batch_size
        self.seed = seed
        self.path = path
        self.cache_dir = cache_dir
        self.expected_dim = expected_dim
        self.progress = progress
        self.dropped: dict[str, int] = {}
        self._splits: dict[str, EmbeddingSplit] = {}
        self._teacher_card: dict[str, Any] | None = None
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
        data._take_arrays("the array of inputs", inputs, targets)
        return data

    @property
    def splits(self) -> dict[str, EmbeddingSplit]:
        """The three splits; an error before `prepare`."""
        if not self._splits:
            raise ValueError("Data must be prepared before use; `splits` was asked for first. Call prepare().")
        return self._splits

    @property
    def dim(self) -> int:
        """D, the number of channels of an embedding."""
        return self.splits["train"].inputs.shape[1]

    @property
    def pairs(self) -> bool:
        """Whether the targets are answers, other than the inputs."""
        train = self.splits["train"]
        return train.targets is not train.inputs

    def prepare(self) -> None:
        """Read, embed, check and cut the data; a second call does nothing."""
        if self._splits:
            return
        if self.task == "vectors":
            assert self.path is not None
            self._take_arrays(str(self.path), load_vectors(self.path), None)
        else:
            self._take_corpus(self._corpus())

    def survey(self) -> tuple[str, dict[str, int]]:
        """Read the source, load the teacher and check that they fit, without embedding.

        Returns:
            What was found, in words, and the rows that each split keeps.
        """
        if self.task == "vectors":
            self.prepare()
            return str(self.path), {name: len(split) for name, split in self.splits.items()}
        corpus, teacher = self._corpus(), self._built_teacher()
        self._check_dim(teacher.dim, f"teacher {teacher.source!r}")
        rows = {name: len(split) for name, split in corpus.splits.items()}
        return f"corpus {corpus.name}, teacher {teacher.source} of {teacher.dim} dimensions", rows

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
        sampler = EpochSampler(len(rows), seed, shuffle, self.batch_size, rank, world)
        # Its own generator: a loader draws a number per pass, which must not come from the caller's.
        generator = torch.Generator().manual_seed(self.seed)
        with warnings.catch_warnings():
            # torchdata calls a function that torch has deprecated; the caller can do nothing about it.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated", category=UserWarning)
            return StatefulDataLoader(
                rows, self.batch_size // world, sampler=sampler, collate_fn=as_is, generator=generator
            )

    def card(self) -> dict[str, Any]:
        """Describe the data in plain numbers and strings, fit for JSON."""
        return {
            "task": self.task,
            "limit": self.limit,
            "seed": self.seed,
            "dim": self.dim,
            "rows": {name: len(split) for name, split in self.splits.items()},
            "groups": {name: len(set(split.groups)) for name, split in self.splits.items()},
            "dropped": dict(self.dropped),
            "teacher": self._teacher_card,
            "source_sha256": self._source_sha256,
        }

    def _corpus(self) -> Corpus:
        if self.task == "file":
            assert self.path is not None
            return text_file(self.path, self.limit, self.seed)
        read = questions_and_answers if self.task == "qa" else sentences
        return read(self.limit, self.seed)

    def _take_corpus(self, corpus: Corpus) -> None:
        from latticegnn.data.cache import EmbeddingCache

        teacher = self._built_teacher()
        texts = [text for split in corpus.splits.values() for text in (*split.inputs, *(split.targets or ()))]
        vectors = EmbeddingCache(self.cache_dir).embed(teacher, texts, self.batch_size, self.progress)
        self._check_dim(vectors.shape[1], f"teacher {teacher.source!r}")
        dropped: Counter[str] = Counter(nan=0, inf=0, zero=0, duplicate=0)
        seen: set[bytes] = set()
        splits: dict[str, EmbeddingSplit] = {}
        start = 0
        for name, split in corpus.splits.items():
            n = len(split)
            inputs, start = vectors[start : start + n], start + n
            targets = inputs
            if split.targets is not None:
                targets, start = vectors[start : start + n], start + n
            keep = sound_rows(inputs, targets, seen, dropped)
            texts_in = [split.inputs[i] for i in keep]
            texts_out = texts_in if split.targets is None else [split.targets[i] for i in keep]
            splits[name] = gather(inputs, targets, keep, texts_in, texts_out, [split.groups[i] for i in keep])
        self._teacher_card = {"source": teacher.source, "pooling": teacher.pooling, "fingerprint": teacher.fingerprint}
        self._finish(splits, dropped, corpus.sha256)

    def _take_arrays(self, name: str, inputs: np.ndarray, targets: np.ndarray | None) -> None:
        inputs = checked_matrix(inputs, name)
        wanted = inputs if targets is None else checked_matrix(targets, "the array of targets")
        if inputs.shape != wanted.shape:
            raise ValueError(
                f"Inputs and targets must have the same shape [n, D]; received {list(inputs.shape)} and "
                f"{list(wanted.shape)}. Give one target a row, from the same teacher."
            )
        self._check_dim(inputs.shape[1], name)
        dropped: Counter[str] = Counter(nan=0, inf=0, zero=0, duplicate=0)
        kept = np.asarray(sound_rows(inputs, wanted, set(), dropped), dtype=np.int64)
        parts = cut(len(kept), self.limit, self.seed)
        splits = {name: gather(inputs, wanted, kept[rows].tolist(), [], [], []) for name, rows in parts.items()}
        digest = hashlib.sha256(inputs.tobytes())
        if wanted is not inputs:
            digest.update(wanted.tobytes())
        self._finish(splits, dropped, digest.hexdigest())

    def _finish(self, splits: dict[str, EmbeddingSplit], dropped: Counter[str], sha256: str) -> None:
        self.dropped = dict(dropped)
        for name, split in splits.items():
            if len(split) == 0:
                raise ValueError(
                    f"Each split must keep at least 1 row; {name!r} has none after dropping {self.dropped}. "
                    "Raise `limit`, or repair the source."
                )
        self._splits = splits
        self._source_sha256 = sha256
        if any(self.dropped.values()):
            logger.warning("dropped rows by reason: %s", {reason: n for reason, n in self.dropped.items() if n})

    def _built_teacher(self) -> "Teacher":
        from latticegnn.data.teacher import Teacher

        if isinstance(self.teacher, str):
            return Teacher(self.teacher)
        if not isinstance(self.teacher, Mapping):
            return self.teacher
        try:
            return Teacher(**self.teacher)
        except TypeError as error:
            raise ValueError(
                f"The settings of `teacher` must be arguments of Teacher; received {dict(self.teacher)}: {error}. "
                "Correct their names and types."
            ) from error

    def _check_dim(self, dim: int, source: str) -> None:
        if self.expected_dim is not None and dim != self.expected_dim:
            raise ValueError(
                f"The embeddings' dimension must be the model's: {self.expected_dim} expected; {source} gives {dim}. "
                f"Set embedding_dim to {dim}, or choose another teacher."
            )
