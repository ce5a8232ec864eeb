"""Does correction gain on one greedy pass? Texts from whole teacher embeddings, decoded, drawn, corrected.

``python benchmarks/correction.py [--updates 3000] [--corrector_updates 2000] [--rows 200] [--seed 0]``
Trains a decoder on the packaged sentences of at most 32 tokens and their MiniLM embeddings, and a corrector on its
drawn hypotheses for them; prints a table on held-out sentences. The cosine is that of the text's embedding and the
target; token F1 counts the words that two texts share. Equal candidates, from the decoder alone and with corrections,
cost the same embeddings.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from latticegnn.correction import Correction, correction_code
from latticegnn.data import EmbeddingCache, Teacher, Tokenizer, sentences
from latticegnn.nn import Generation, TextDecoder
from latticegnn.nn.generation import until_end

LENGTH, VOCABULARY, BATCH = 32, 2000, 64


def main() -> None:
    """Train both decoders and print the table."""
    parser = argparse.ArgumentParser(description="Measure what correction gains.")
    parser.add_argument("--updates", type=int, default=3000, help="Updates of the decoder.")
    parser.add_argument("--corrector_updates", type=int, default=2000, help="Updates of the corrector.")
    parser.add_argument("--rows", type=int, default=200, help="Held-out sentences.")
    parser.add_argument("--seed", type=int, default=0, help="Of starts, batches and draws.")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    torch.set_num_threads(1)
    teacher, splits = Teacher("packaged:minilm"), sentences().splits
    tokenizer = Tokenizer.train(splits["train"].inputs, "bpe", VOCABULARY)
    texts = [_short(tokenizer, splits[name].inputs) for name in ("train", "test")]
    train, test = texts[0], texts[1][: given.rows]
    inputs, targets = (torch.from_numpy(EmbeddingCache().embed(teacher, part)) for part in (train, test))
    rows, wanted_rows = (tokenizer.encode(part, LENGTH, eos=True)[0] for part in (train, test))
    print(f"{len(train)} sentences to train on, {len(test)} held out", flush=True)

    decoder = _decoder(tokenizer, inputs.shape[1], given.seed)
    _train(decoder, inputs, rows, given.updates, given.seed)
    with torch.no_grad():
        print(f"held-out loss {float(_loss(decoder, targets, wanted_rows)):.3f}", flush=True)
    drawn = Generation("sample", temperature=0.7, seed=given.seed)
    parts = [decoder.generate(part, drawn) for part in inputs.split(512)]
    hypotheses = torch.from_numpy(teacher.encode(tokenizer.decode(torch.cat(parts))))
    corrector = _decoder(tokenizer, 2 * inputs.shape[1], given.seed)
    _train(corrector, correction_code(inputs, hypotheses), rows, given.corrector_updates, given.seed)

    print("| texts embedded a row | by | cosine | token F1 | exact |\n|---|---|---|---|---|")
    for candidates, rounds in [(1, 0), (8, 0), (1, 7), (16, 0), (8, 1), (32, 0), (8, 3)]:
        search = Correction(decoder, tokenizer, teacher, corrector if rounds else None, rounds, candidates, drawn)
        found = search(targets)
        shared = [_f1(text, wanted) for text, wanted in zip(found.texts, test, strict=True)]
        exact = np.mean([text == wanted for text, wanted in zip(found.texts, test, strict=True)])
        name = f"{candidates} candidates, {rounds} corrections" if rounds else f"{candidates} of the decoder"
        figures = f"{_interval(found.cosine[-1].numpy())} | {_interval(np.array(shared))} | {exact:.3f}"
        print(f"| {candidates * (rounds + 1)} | {name} | {figures} |", flush=True)
    for text, wanted in list(zip(found.texts, test, strict=True))[:8]:
        print(f"{wanted!r} -> {text!r}")


def _short(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Keep the texts that fit with their end."""
    whole = tokenizer.encode(texts, LENGTH + 1)[1].sum(dim=1) < LENGTH
    return [text for text, kept in zip(texts, whole.tolist(), strict=True) if kept]


def _decoder(tokenizer: Tokenizer, width: int, seed: int) -> TextDecoder:
    assert tokenizer.bos_id is not None
    assert tokenizer.eos_id is not None
    ids = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    return TextDecoder(width, tokenizer.vocab_size, LENGTH, *ids, seed=seed)


def _train(decoder: TextDecoder, code: Tensor, rows: Tensor, updates: int, seed: int) -> None:
    """Cross-entropy of the tokens up to the end, AdamW, one cycle."""
    generator, start = torch.Generator().manual_seed(seed), time.process_time()
    optimizer = torch.optim.AdamW(decoder.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=updates, pct_start=0.05)
    mean = 0.0
    for update in range(updates):
        chosen = torch.randint(len(rows), (BATCH,), generator=generator)
        loss = _loss(decoder, code[chosen], rows[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += (float(loss.detach()) - mean) / min(update + 1, 100)
        if (update + 1) % 500 == 0:
            seconds = time.process_time() - start
            print(f"update {update + 1}: training loss {mean:.3f}, {seconds:.0f} CPU seconds", flush=True)
    decoder.eval()


def _loss(decoder: TextDecoder, code: Tensor, rows: Tensor) -> Tensor:
    kept = until_end(rows, decoder.eos_id)
    return torch.nn.functional.cross_entropy(decoder(code, rows)[kept], rows[kept])


def _f1(text: str, wanted: str) -> float:
    """Twice the words that two texts share, over the words that they have."""
    words = [Counter(one.split()) for one in (text, wanted)]
    return 2 * (words[0] & words[1]).total() / max(1, words[0].total() + words[1].total())


def _interval(values: np.ndarray) -> str:
    """Mean and 95 % interval of it over the rows."""
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
