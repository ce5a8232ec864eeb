"""Correction: a search that never gets worse, against plain loops, with a teacher that has known answers."""

import math

import numpy as np
import pytest
import torch

from latticegnn.correction import Correction, correction_code
from latticegnn.data import Tokenizer
from latticegnn.nn import Generation, MajorityHead, TextDecoder
from latticegnn.nn.generation import until_end

WORDS = ["the", "cat", "dog", "sings", "sits", "red"]
TEXTS = [" ".join((a, b, c)) for a in WORDS for b in WORDS[:3] for c in WORDS[3:]]
L, D = 5, len(WORDS)


class WordCounts:
    """A teacher with known answers: how often each word occurs, the first one twice as much."""

    dim = D

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        self.asked += texts
        counts = [[t.split().count(w) + (t.split()[:1] == [w]) for w in WORDS] for t in texts]
        return np.array(counts, dtype=np.float32).reshape(len(texts), D) + 0.01


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, "whitespace", 20)


def decoder_of(tokenizer: Tokenizer, width: int, **settings) -> TextDecoder:
    ids = tokenizer.vocab_size, L, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    return TextDecoder(width, *ids, **{"dim": 16, "heads": 2, "layers": 1, "dropout": 0.0} | settings)


def train(decoder: TextDecoder, code: torch.Tensor, rows: torch.Tensor, updates: int) -> None:
    optimizer, kept = torch.optim.AdamW(decoder.parameters(), lr=1e-2), until_end(rows, decoder.eos_id)
    for _ in range(updates):
        loss = torch.nn.functional.cross_entropy(decoder(code, rows)[kept], rows[kept])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def embedded(texts: list[str]) -> torch.Tensor:
    return torch.from_numpy(WordCounts().encode(texts))


def test_candidates_are_searched_as_a_plain_loop_does(tokenizer) -> None:
    decoder, target = decoder_of(tokenizer, D), embedded(TEXTS[:7])
    drawn, seeds = Generation("sample", temperature=2.0, seed=4), torch.arange(7) + 5
    found = Correction(decoder, tokenizer, WordCounts(), candidates=4, generation=drawn)(target, seeds=seeds)
    for row in range(7):
        code = target[row : row + 1]
        texts = tokenizer.decode(decoder.generate(code))
        texts += [tokenizer.decode(decoder.generate(code, drawn, (seeds * 4 + k)[row : row + 1]))[0] for k in (1, 2, 3)]
        cosines = torch.cosine_similarity(embedded(texts), code)
        assert found.texts[row] == texts[int(cosines.argmax())]
        torch.testing.assert_close(found.cosine[:, row], torch.stack([cosines[0], cosines.max()]))


def test_a_row_hangs_neither_on_the_batch_nor_on_the_round_before_it(tokenizer) -> None:
    decoder, corrector, target = decoder_of(tokenizer, D), decoder_of(tokenizer, 2 * D, seed=1), embedded(TEXTS[:6])
    drawn = Generation("sample", temperature=3.0)
    search = Correction(decoder, tokenizer, WordCounts(), corrector, rounds=2, candidates=3, generation=drawn)
    together = search(target)
    alone = [search(target[k : k + 1], seeds=torch.tensor([k])) for k in range(6)]
    assert [one.texts[0] for one in alone] == together.texts
    torch.testing.assert_close(torch.cat([one.cosine for one in alone], dim=1), together.cosine)
    assert together.cosine.shape == (4, 6)
    assert (together.cosine.diff(dim=0) >= -1e-6).all(), "the nearest so far is kept"
    best = torch.cosine_similarity(embedded(together.texts), target)
    torch.testing.assert_close(together.cosine[-1], best)
    proposals = {text for seed in range(2) for text in search(target, seeds=torch.arange(6) + 6 * seed).texts}
    assert len(proposals) > 3


def test_every_distinct_text_is_embedded_once_a_round(tokenizer) -> None:
    teacher = WordCounts()
    head = MajorityHead(D, tokenizer.vocab_size, L, tokenizer.pad_id, tokenizer.eos_id)
    head.fit(tokenizer.encode(["the dog sits red"], L, eos=True)[0])  # a word at every place but the end
    sure = Generation("sample", temperature=1e-3)
    found = Correction(head, tokenizer, teacher, candidates=5, generation=sure)(embedded(TEXTS[:9]))
    assert set(found.texts) == {"the dog sits red"}
    assert teacher.asked == ["the dog sits red"]


def test_a_trained_corrector_gains_on_its_own_decoder(tokenizer) -> None:
    """A decoder stopped early errs; a corrector that sees what its text lacks mends most of it."""
    rows, target = tokenizer.encode(TEXTS, L, eos=True)[0], embedded(TEXTS)
    decoder, corrector = decoder_of(tokenizer, D), decoder_of(tokenizer, 2 * D)
    train(decoder, target, rows, 25)
    hypotheses = embedded(tokenizer.decode(decoder.generate(target)))
    train(corrector, correction_code(target, hypotheses), rows, 120)
    teacher = WordCounts()
    greedy = Correction(decoder, tokenizer, teacher, candidates=1)(target)
    corrected = Correction(decoder, tokenizer, teacher, corrector, rounds=1, candidates=1)(target)
    assert torch.equal(corrected.cosine[0], greedy.cosine[0])
    exact = [np.mean([a == b for a, b in zip(found.texts, TEXTS, strict=True)]) for found in (greedy, corrected)]
    assert exact[0] < 0.8 < 0.9 < exact[1]
    assert float(corrected.cosine[-1].mean()) > float(greedy.cosine[-1].mean()) + 0.01


def test_the_code_of_a_correction_is_target_and_difference() -> None:
    target, hypothesis = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    assert correction_code(target, hypothesis).tolist() == [[1.0, 2.0, 0.5, -1.0]]


def test_the_decoder_may_read_another_code_than_the_target(tokenizer) -> None:
    decoder, code = decoder_of(tokenizer, 3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = Correction(decoder, tokenizer, WordCounts(), candidates=1)(embedded(TEXTS[:4]), code)
    assert found.texts == tokenizer.decode(decoder.generate(code))


def test_mistakes_are_refused(tokenizer, refuses) -> None:
    decoder, teacher = decoder_of(tokenizer, D), WordCounts()
    for values, rule, received in [
        ({"rounds": -1}, "rounds must be a whole number, at least 0", "got -1"),
        ({"candidates": 0}, "candidates must be a whole number, at least 1", "got 0"),
        ({"candidates": math.inf}, "candidates must be a whole number", "inf"),
    ]:
        with refuses(rule, received, "raise it"):
            Correction(decoder, tokenizer, teacher, **values)
    with refuses("need a corrector", "rounds=2 without one", "raise candidates"):
        Correction(decoder, tokenizer, teacher, rounds=2)
    with refuses("beyond the first are drawn", "strategy: beam", "strategy: sample"):
        Correction(decoder, tokenizer, teacher, generation=Generation("beam"))
    other = Tokenizer.train(TEXTS[:1], "whitespace", 9)
    with refuses("must be its tokenizer's", f"a decoder of {tokenizer.vocab_size}", "trained with"):
        Correction(decoder, other, teacher)
    with refuses("target and difference, 12 numbers", "width 6", "width=12"):
        Correction(decoder, tokenizer, teacher, decoder, rounds=1)(embedded(TEXTS[:2]))
