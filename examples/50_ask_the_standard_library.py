"""Ask the standard library: a question in plain English, the function that answers it.

A lattice trained on signatures and their first sentences carries the question, and of all sentences of the standard
library the nearest are shown, with the functions that they describe. No answer is written down here.

Train first, ``latticegnn fit --config configs/default.yaml`` (three minutes; configs/answers_full.yaml is better and
takes longer), then run from the repository: ``python examples/50_ask_the_standard_library.py [RUN] [--k 3]``. Ctrl-D
ends it. The first time all 5,000 sentences are embedded, a minute or two; they are kept. ``--evaluate`` compares the
lattice with the bare teacher, on the run's held-out signatures and on the forty questions of
``examples/50_questions.tsv``, which were written before any model had seen them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import latticegnn as lg
from latticegnn.analysis import paired_difference, row_statistics
from latticegnn.data import EmbeddingCache, questions_and_answers
from latticegnn.training.analyses import FinishedRun

QUESTIONS = Path(__file__).with_name("50_questions.tsv")
DEEPEST = 10


def library(predictor: lg.Predictor) -> lg.AnswerIndex:
    """Index the first sentence of every documented object, titled by its name and signature."""
    pairs = questions_and_answers()
    titles = [title for split in pairs.splits.values() for title in split.inputs]
    sentences = [sentence for split in pairs.splits.values() for sentence in split.targets or ()]
    vectors = EmbeddingCache().embed(predictor.teacher, sentences, progress=True)
    return lg.AnswerIndex(sentences, vectors, titles, predictor.teacher.fingerprint)


def converse(predictor: lg.Predictor, k: int) -> None:
    """Answer what is typed, until there is no more."""
    print(f"{len(predictor.index)} functions, classes and modules. Ask in plain English; Ctrl-D ends.")
    while True:
        try:
            question = input("\n? ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if question.strip():
            (row,) = predictor.predict([question], "answers", k)
            for answer in row["answers"]:
                print(f"  {answer['score']:.2f}  {answer['title']}\n        {answer['text']}")


def plain_questions() -> list[tuple[str, set[str]]]:
    """Read the questions, each with the names of the functions that answer it."""
    lines = (line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines())
    return [(question, set(names.split())) for question, names in lines]


def found_in_time(index: lg.AnswerIndex, vectors: np.ndarray, names: list[set[str]]) -> dict[str, Tensor]:
    """Compute recall and reciprocal rank of each question, as statistics [n, 2]: a question counts its first hit."""
    _, places = index.search(vectors, DEEPEST)
    titles = index.titles or []
    hits = [
        [titles[place].partition("(")[0] in right for place in row] for row, right in zip(places, names, strict=True)
    ]
    ranks = torch.tensor([row.index(True) + 1 if True in row else torch.inf for row in hits], dtype=torch.float64)
    figures = {"mrr@10": 1 / ranks, "recall@1": (ranks <= 1).double(), "recall@10": (ranks <= DEEPEST).double()}
    return {name: torch.stack([shares, torch.ones_like(shares)], dim=1) for name, shares in figures.items()}


def evaluate(run: Path, predictor: lg.Predictor) -> None:
    """Print the lattice against the bare teacher, on the run's held-out questions and on the plain ones."""
    done = FinishedRun(run)
    inputs, targets = done.data.splits["test"].tensors()
    carried = torch.from_numpy(predictor.carry(inputs.numpy()))
    held_out = [row_statistics(vectors, targets, done.train_mean, pairs=True) for vectors in (carried, inputs)]
    asked = plain_questions()
    bare = predictor.teacher.encode([question for question, _ in asked])
    names = [right for _, right in asked]
    plain = [found_in_time(predictor.index, vectors, names) for vectors in (predictor.carry(bare), bare)]
    for title, (lattice, raw) in (
        (f"{len(inputs)} held-out signatures", held_out),
        (f"{len(asked)} plain questions", plain),
    ):
        print(f"{title:<26} lattice  teacher  difference, 95 % interval")
        for metric in ("mrr@10", "recall@1", "recall@10"):
            gap = paired_difference(lattice[metric], raw[metric])
            values = "".join(f"{float(rows[metric][:, 0].mean()):9.3f}" for rows in (lattice, raw))
            print(f"  {metric:<22}{values}  {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]")


def main() -> None:
    """Converse, or evaluate."""
    parser = argparse.ArgumentParser(description="Ask the standard library.")
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/latest"), help="Folder of a run on pairs.")
    parser.add_argument("--k", type=int, default=3, help="Answers to each question.")
    parser.add_argument("--evaluate", action="store_true", help="Compare with the bare teacher instead.")
    given = parser.parse_args()
    try:
        predictor = lg.Predictor(given.run)
        predictor.answer_from(library(predictor))
        if given.evaluate:
            evaluate(given.run, predictor)
        else:
            converse(predictor, given.k)
    except (ValueError, OSError) as error:
        sys.exit(f"50_ask_the_standard_library.py: {error}")


if __name__ == "__main__":
    main()
