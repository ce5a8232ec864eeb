"""Texts, teachers and their embeddings: everything between a corpus and a batch `[B, D]`.

Knows no lattice. Importing it is light: transformers and torchdata are imported by the calls that need them.

Raw material: `sentences`, `questions_and_answers`, `text_file` → `Corpus`. Text to vector: `Teacher`, kept by
`EmbeddingCache`. Vectors to batches: `EmbeddingData`, in the order of `EpochSampler`.
"""

from latticegnn.data.cache import CacheError as CacheError
from latticegnn.data.cache import EmbeddingCache as EmbeddingCache
from latticegnn.data.corpus import Corpus as Corpus
from latticegnn.data.corpus import Split as Split
from latticegnn.data.corpus import questions_and_answers as questions_and_answers
from latticegnn.data.corpus import sentences as sentences
from latticegnn.data.corpus import text_file as text_file
from latticegnn.data.datamodule import EmbeddingData as EmbeddingData
from latticegnn.data.presets import PRESETS as PRESETS
from latticegnn.data.sampler import EpochSampler as EpochSampler
from latticegnn.data.split import EmbeddingSplit as EmbeddingSplit
from latticegnn.data.teacher import Teacher as Teacher
from latticegnn.data.vectors import load_vectors as load_vectors
