"""Texts, teachers and their embeddings: everything between a corpus and a batch `[B, D]`.

Knows no lattice. Importing it is light: transformers, torchdata, gensim and datasets are imported by the calls that
need them.

Raw material: `sentences`, `questions_and_answers`, `phrases`, `next_tokens`, `text_file`, `text_corpus` → `Corpus`;
`read_texts` gives a file's rows one at a time. Text to vector: `Teacher` or `WordVectors`, kept by `EmbeddingCache`; or
prepared, by `open_vectors` and `load_vectors`. Vectors to batches: `EmbeddingData`, of one `Source` or several, in the
order of `EpochSampler`. Text to token ids and back: `Tokenizer`.
"""

from latticegnn.data.cache import CacheError as CacheError
from latticegnn.data.cache import EmbeddingCache as EmbeddingCache
from latticegnn.data.corpus import questions_and_answers as questions_and_answers
from latticegnn.data.corpus import sentences as sentences
from latticegnn.data.corpus import text_file as text_file
from latticegnn.data.datamodule import EmbeddingData as EmbeddingData
from latticegnn.data.mixture import Source as Source
from latticegnn.data.mixture import Task as Task
from latticegnn.data.mixture import TextFields as TextFields
from latticegnn.data.mixture import VectorFields as VectorFields
from latticegnn.data.partition import Corpus as Corpus
from latticegnn.data.partition import Row as Row
from latticegnn.data.partition import Split as Split
from latticegnn.data.phrases import next_tokens as next_tokens
from latticegnn.data.phrases import phrases as phrases
from latticegnn.data.presets import PRESETS as PRESETS
from latticegnn.data.sampler import EpochSampler as EpochSampler
from latticegnn.data.split import EmbeddingSplit as EmbeddingSplit
from latticegnn.data.teacher import Teacher as Teacher
from latticegnn.data.texts import read_texts as read_texts
from latticegnn.data.texts import text_corpus as text_corpus
from latticegnn.data.tokenizers import Tokenizer as Tokenizer
from latticegnn.data.vectors import check_rows as check_rows
from latticegnn.data.vectors import load_vectors as load_vectors
from latticegnn.data.vectors import open_vectors as open_vectors
from latticegnn.data.words import WordVectors as WordVectors
