"""From an embedding back to its text by trial: decode, embed what came out, correct, keep what comes nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latticegnn.data import Tokenizer
from latticegnn.nn import Generation, TokenDecoder

_DRAWN = Generation("sample", temperature=0.7)


class Embedder(Protocol):
    """What embeds a hypothesis: a `latticegnn.Teacher`, or anything with this method."""

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        """Embed n texts: [n, D]."""


@dataclass
class Corrected:
    """What a correction found.

    Args:
        texts: The nearest text of each row, B of them.
        cosine: Cosine of the target and the nearest text's embedding, after the first hypothesis, the first
            candidates, and each round [2 + rounds, B]; it never falls.
    """

    texts: list[str]
    cosine: Tensor


class Correction:
    r"""Search the text whose embedding is nearest to a target (vec2text: Morris et al., 2023, arXiv:2310.06816).

    .. math::
        t^0 = \mathop{\mathrm{near}}_e\, \{\mathrm{Dec}(c)\}_k, \qquad
        t^{r+1} = \mathop{\mathrm{near}}_e\, (\{t^r\} \cup \{\mathrm{Cor}([e \,\|\, e - \phi(t^r)])\}_k)

    φ is the teacher, near takes the text with the greatest cosine of φ(t) and e, and the k candidates are the most
    probable row and k - 1 drawn ones. The corrector sees a hypothesis by its embedding alone; the paper's sees its
    tokens, too.

    Args:
        decoder: Dec, from a code to tokens.
        tokenizer: Its tokenizer.
        teacher: φ.
        corrector: Cor, a decoder of width 2·D with the same tokenizer, trained on `correction_code`; None for the
            nearest of the first candidates.
        rounds: Corrections, ≥ 0; each embeds k texts a row.
        candidates: k, texts proposed at a time, ≥ 1.
        generation: How candidates beyond the first are drawn; its strategy is "sample".

    Raises:
        ValueError: For a number out of range, rounds without a corrector, or parts that do not fit each other.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        tokenizer: Tokenizer,
        teacher: Embedder,
        corrector: TokenDecoder | None = None,
        rounds: int = 0,
        candidates: int = 8,
        generation: Generation = _DRAWN,
    ) -> None:
        for name, value, least in (("rounds", rounds, 0), ("candidates", candidates, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}; raise it.")
        if rounds and corrector is None:
            raise ValueError(
                f"rounds of correction need a corrector; got rounds={rounds} without one; train one on "
                "correction_code, or set rounds to 0 and raise candidates."
            )
        if generation.strategy != "sample":
            raise ValueError(
                f"candidates beyond the first are drawn; got strategy: {generation.strategy}; set strategy: sample, "
                "and candidates to 1 for the most probable row alone."
            )
        for part in (decoder, corrector):
            if part is not None and part.vocab_size != tokenizer.vocab_size:
                raise ValueError(
                    f"a decoder's tokens must be its tokenizer's, {tokenizer.vocab_size} of them; got a decoder of "
                    f"{part.vocab_size}; pass the tokenizer it was trained with."
                )
        self.decoder, self.tokenizer, self.teacher, self.corrector = decoder, tokenizer, teacher, corrector
        self.rounds, self.candidates, self.generation = rounds, candidates, generation

    @torch.no_grad()
    def __call__(self, target: Tensor, code: Tensor | None = None, seeds: Tensor | None = None) -> Corrected:
        """Search a text for each target.

        Args:
            target: Embeddings in the teacher's space [B, D].
            code: What the decoder reads [B, W]; the target itself by default.
            seeds: A seed for each row's draws [B], ≥ 0; by default its place in the batch.
        """
        if self.corrector is not None and self.corrector.width != 2 * target.shape[1]:
            raise ValueError(
                f"a corrector must take target and difference, {2 * target.shape[1]} numbers; got one of width "
                f"{self.corrector.width}; build it with width={2 * target.shape[1]}."
            )
        seeds = torch.arange(len(target)) if seeds is None else seeds
        best, found = self._embedded(self.decoder, target if code is None else code, seeds, 0)
        course = [cosine_similarity(found[0], target)]
        texts, embedding, cosine = _nearest(best, found, target)
        course.append(cosine)
        for at in range(1, self.rounds + 1):
            assert self.corrector is not None
            rows, found = self._embedded(self.corrector, correction_code(target, embedding), seeds, at)
            texts, embedding, cosine = _nearest([texts, *rows], torch.cat([embedding[None], found]), target)
            course.append(cosine)
        return Corrected(texts, torch.stack(course))

    def _embedded(self, decoder: TokenDecoder, code: Tensor, seeds: Tensor, at: int) -> tuple[list[list[str]], Tensor]:
        """Propose k texts a row and embed them: k lists of B texts, and [k, B, D]."""
        proposed = [decoder.generate(code)]
        for candidate in range(1, self.candidates):
            # Every row, round and candidate has a seed of its own, whatever else is in the batch.
            own = (seeds * (self.rounds + 1) + at) * self.candidates + candidate
            proposed.append(decoder.generate(code, self.generation, own))
        texts = [self.tokenizer.decode(rows.cpu()) for rows in proposed]
        distinct = list(dict.fromkeys(text for row in texts for text in row))
        place = {text: number for number, text in enumerate(distinct)}
        vectors = torch.from_numpy(self.teacher.encode(distinct)).to(code)
        return texts, torch.stack([vectors[[place[text] for text in row]] for row in texts])


def correction_code(target: Tensor, hypothesis: Tensor) -> Tensor:
    """Give what a corrector reads: the target embedding and what the hypothesis' lacks of it, [B, D] each -> [B, 2·D].

    The hypothesis' own embedding, which the paper gives besides, is the difference of the two: a linear map of the code
    has it for nothing.
    """
    return torch.cat([target, target - hypothesis], dim=1)


def _nearest(texts: Sequence[list[str]], found: Tensor, target: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """Choose for each row the text of the k whose embedding is nearest, the first one of equals."""
    cosine = cosine_similarity(found, target[None], dim=-1)
    best = cosine.argmax(dim=0)
    rows = torch.arange(len(target), device=best.device)
    return [texts[int(k)][row] for row, k in enumerate(best)], found[best, rows], cosine[best, rows]
