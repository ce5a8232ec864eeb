"""TextDecoder: causal, its logits those of generation with a cache, drawn rows of the right distribution."""

import copy
import itertools
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import GenerationConfig

from latticegnn.nn import Generation, TextDecoder, TokenDecoder, build_decoder
from latticegnn.nn.generation import GumbelNoise, until_end

W, V, L, PAD, BOS, EOS = 6, 9, 5, 0, 1, 2
STRATEGIES = [Generation(), Generation("beam", beams=3), Generation("sample", temperature=1.5, top_k=7, top_p=0.95)]


def make(**settings) -> TextDecoder:
    """A small decoder whose rows differ from code to code, in float64."""
    given = {"width": W, "vocab_size": V, "length": L, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
    made = TextDecoder(**given | {"dim": 8, "heads": 2, "memory": 3} | settings).double().eval()
    generator = torch.Generator().manual_seed(made.settings["seed"])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            scale = 1.0 if "cross" in name or "wte" in name else 0.3
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def codes(count: int) -> Tensor:
    return torch.randn(count, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rows(count: int) -> Tensor:
    return torch.randint(V, (count, L), generator=torch.Generator().manual_seed(2))


def test_the_logits_of_a_token_do_not_see_it_nor_what_follows() -> None:
    made, tokens = make(), rows(4)
    logits = made(codes(4), tokens)
    assert logits.shape == (4, L, V)
    for place in range(L):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % V
        after = made(codes(4), changed)
        torch.testing.assert_close(after[:, : place + 1], logits[:, : place + 1], rtol=0, atol=1e-12)
        if place + 1 < L:
            assert (after[:, place + 1] - logits[:, place + 1]).abs().amax(dim=-1).min() > 1e-3


def test_every_code_gives_logits_of_its_own() -> None:
    made, tokens = make(), rows(1).expand(4, -1)
    logits = made(codes(4), tokens)
    assert torch.pdist(logits.flatten(1)).min() > 0.1


def test_logits_of_generation_with_a_cache_are_those_of_teacher_forcing() -> None:
    made, code = make(), codes(4)
    start = torch.full((4, 1), BOS)
    config = GenerationConfig(max_new_tokens=L, do_sample=False, output_logits=True, return_dict_in_generate=True)
    config.eos_token_id = config.pad_token_id = None
    found = made.gpt.generate(
        start, attention_mask=start, encoder_hidden_states=made.memory(code), generation_config=config
    )
    stepped = torch.stack(found.logits, dim=1).double()
    torch.testing.assert_close(stepped, made(code, found.sequences[:, 1:]), rtol=1e-5, atol=1e-5)
    assert found.past_key_values.cross_attention_cache.get_seq_length() == 3, "a cache was used"


def scored(made: TextDecoder, code: Tensor, row: tuple[int, ...]) -> float:
    """The mean log-probability of a row's tokens; a last place that only the end can take costs nothing."""
    tokens = torch.tensor([[*row, *[PAD] * (L - len(row))]])
    logits = made(code, tokens)[0].detach().log_softmax(dim=-1)
    places = range(min(len(row), L - 1))
    return sum(float(logits[k, row[k]]) for k in places) / len(row)


def test_greedy_takes_the_most_probable_token_and_a_wide_beam_the_best_row_of_all() -> None:
    made = make(vocab_size=5)
    words = (3, 4)
    every = [(*row, EOS) for n in range(L) for row in itertools.product(words, repeat=n)]
    differ = 0
    for code in codes(6).split(1):
        row: list[int] = []
        while (not row or row[-1] != EOS) and len(row) < L - 1:
            logits = made(code, torch.tensor([[*row, *[PAD] * (L - len(row))]]))[0, len(row)].detach()
            row.append(max((EOS, *words), key=lambda token: float(logits[token])))
        row = row if row[-1] == EOS else [*row, EOS]
        greedy = made.generate(code)[0]
        assert greedy[until_end(greedy[None], EOS)[0]].tolist() == row
        best = max(every, key=lambda row: scored(made, code, row))
        beam = made.generate(code, Generation("beam", beams=64))[0]
        assert tuple(beam[until_end(beam[None], EOS)[0]].tolist()) == best
        differ += tuple(row) != best
    assert differ, "a search that greedy would do as well shows nothing"


@pytest.mark.parametrize("generation", STRATEGIES, ids=lambda generation: generation.strategy)
def test_what_shares_the_batch_changes_nothing(generation) -> None:
    made, code, seeds = make(), codes(12), torch.arange(12) * 7 + 3
    together = made.generate(code, generation, seeds)
    assert len(together.unique(dim=0)) > 3
    alone = torch.cat([made.generate(code[k : k + 1], generation, seeds[k : k + 1]) for k in range(12)])
    assert torch.equal(together, alone)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.generate(code[order], generation, seeds[order]), together[order])


@pytest.mark.parametrize("generation", STRATEGIES, ids=lambda generation: generation.strategy)
def test_rows_end_once_and_are_padded(generation) -> None:
    for seed in range(4):
        found = make(seed=seed).generate(codes(20), generation)
        assert found.shape == (20, L)
        assert found.dtype == torch.long
        for row in found.tolist():
            end = row.index(EOS)
            assert row[end + 1 :] == [PAD] * (L - end - 1)
            assert not {PAD, BOS} & set(row[:end])


def test_one_id_may_start_end_and_pad_as_in_gpt2() -> None:
    made = make(pad_id=EOS, bos_id=EOS)
    seen = set()
    for generation in [*STRATEGIES, Generation("sample", temperature=4.0)]:
        found = made.generate(codes(20), generation)
        lengths = until_end(found, EOS).sum(dim=1).tolist()
        assert all((row[n - 1 :] == EOS).all() for row, n in zip(found, lengths, strict=True))
        seen |= set(lengths)
    assert {1, 2, L} <= seen, "a row that is only the end was made, too"


def test_a_length_of_one_leaves_the_end_alone() -> None:
    for generation in STRATEGIES:
        assert make(length=1).generate(codes(3), generation).tolist() == [[EOS]] * 3


def test_drawn_tokens_follow_the_softmax() -> None:
    made, code, heat = make(), codes(1), 4.0
    found = made.generate(code.expand(8000, -1), Generation("sample", temperature=heat, seed=5))
    first = 3 + int(torch.bincount(found[:, 0])[3:].argmax())
    tokens = torch.tensor([[first, *[PAD] * (L - 1)]])
    logits = made(code, tokens)[0].detach() / heat
    logits[:, [PAD, BOS]] = -math.inf
    shares = logits.softmax(dim=-1)[:, 2:]
    # The first token of all, and the second of those that share the most frequent first one.
    for place, kept in enumerate([found, found[found[:, 0] == first]]):
        counts, expected = torch.bincount(kept[:, place], minlength=V)[2:], shares[place] * len(kept)
        assert expected.min() > 5
        assert chisquare(counts, expected).pvalue > 1e-3


def test_top_k_and_top_p_cut_what_is_drawn_from() -> None:
    made, code = make(), codes(1)
    logits = made(code, rows(1))[0, 0].detach()
    logits[[PAD, BOS]] = -math.inf
    order = logits.argsort(descending=True)
    many = code.expand(600, -1)
    assert set(made.generate(many, Generation("sample", top_k=3))[:, 0].tolist()) == set(order[:3].tolist())
    share = logits.softmax(dim=-1)[order].cumsum(dim=0)
    least = int((share < 0.7).sum()) + 1
    assert 1 < least < V - 2
    drawn = set(made.generate(many, Generation("sample", top_p=0.7))[:, 0].tolist())
    assert drawn == set(order[:least].tolist())
    assert torch.equal(made.generate(code, Generation("sample", top_k=1)), made.generate(code))


def test_draws_change_with_every_seed_and_with_nothing_else() -> None:
    made, code = make(), codes(1).expand(40, -1)
    first = made.generate(code, Generation("sample"))
    torch.manual_seed(77)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(made.generate(code, Generation("sample")), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.unique(dim=0)) > 5
    assert not torch.equal(made.generate(code, Generation("sample", seed=1)), first)
    assert torch.equal(made.generate(code, Generation("sample"), torch.arange(40)), first)
    same = made.generate(code, Generation("sample"), torch.full((40,), 3))
    assert torch.equal(same, first[3].expand(40, -1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), row=st.integers(0, 2**62), step=st.integers(0, 100))
def test_noise_is_that_of_its_row_and_step_alone(seed, row, step) -> None:
    ids, scores = torch.zeros(3, step + 1, dtype=torch.long), torch.zeros(3, V, dtype=torch.float64)
    noise = GumbelNoise(seed, [row, row + 1, row])(ids, scores)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(GumbelNoise(seed, [row + 1])(ids[:1], scores[:1])[0], noise[1])
    assert not torch.equal(GumbelNoise(seed + 1, [row])(ids[:1], scores[:1])[0], noise[0])


def test_the_gradient_is_exact_and_reaches_every_parameter() -> None:
    made, code, tokens = make(dropout=0.0).train(), codes(2).requires_grad_(), rows(2)
    assert torch.autograd.gradcheck(lambda code: made(code, tokens).log_softmax(dim=-1), code)
    made(code, tokens).log_softmax(dim=-1).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in made.parameters())


def test_ten_phrases_are_learned_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.nn.functional.normalize(torch.randn(10, 32, generator=generator) + 1)
    tokens = torch.full((10, 8), PAD)
    for row in range(10):
        tokens[row, : 2 + row % 6] = torch.randint(3, 40, (2 + row % 6,), generator=generator)
        tokens[row, 2 + row % 6] = EOS
    made = TextDecoder(32, 40, 8, PAD, BOS, EOS, dim=32, heads=2, dropout=0.0)
    kept = until_end(tokens, EOS)
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(made(code, tokens)[kept], tokens[kept])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for generation in (Generation(), Generation("beam"), Generation("sample", temperature=0.2)):
        assert torch.equal(made.generate(code, generation), tokens)
    assert made.training, "generation leaves the mode as it was"


def test_settings_and_weights_build_it_again() -> None:
    made = make(memory=2, dropout=0.3, seed=4)
    again = build_decoder(made.settings).double()
    assert isinstance(again, TextDecoder)
    assert isinstance(again, TokenDecoder)
    assert again.settings == made.settings
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.generate(codes(5)), made.generate(codes(5)))
    again.eval()
    assert torch.equal(again(codes(5), rows(5)), made(codes(5), rows(5)))
    copied = copy.deepcopy(made)
    with torch.no_grad():
        copied.gpt.transformer.wte.weight.zero_()
    assert not copied(codes(1), rows(1)).any(), "the table that reads is the one that writes"
    weights = made.state_dict()
    assert len({value.data_ptr() for value in weights.values()}) == len(weights), "each tensor is saved once"
    del weights["gpt.transformer.wte.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict(weights)


def test_the_start_is_the_seeds_alone() -> None:
    first, second, other = (TextDecoder(W, V, L, PAD, BOS, EOS, dim=8, heads=2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.memory[0].weight, other.memory[0].weight)


def test_the_library_has_nothing_to_say(caplog, capfd) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        made = TextDecoder(W, V, 40, PAD, BOS, EOS, dim=8, heads=2)
        made(torch.randn(3, W), torch.full((3, 40), PAD))
        for generation in STRATEGIES:
            made.generate(torch.randn(3, W), generation)
            made.generate(torch.randn(0, W), generation)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
    assert "".join(capfd.readouterr()) == ""


def test_no_codes_give_no_rows() -> None:
    for generation in STRATEGIES:
        assert make().generate(codes(0), generation).shape == (0, L)


def test_mistakes_are_refused(refuses) -> None:
    made = make()
    with refuses("shape [B, W] with W = 6", "[2, 5]", "trained on"):
        made.generate(codes(2)[:, :5])
    broken = codes(3)
    broken[1, 2] = math.nan
    with refuses("the code must be finite", "1 of 3 rows, first in row 1", "diverge"):
        made(broken, rows(3))
    for wrong in (rows(2)[:, :3], rows(3), rows(2).double(), rows(2).bool()):
        with refuses("shape [B, L], [2, 5]", f"{wrong.dtype} of shape {list(wrong.shape)}", "Tokenizer.encode"):
            made(codes(2), wrong)
    with refuses("must lie in 0 … 8", "0 … 9", "encode with the tokenizer"):
        made(codes(1), torch.tensor([[0, 9, 1, 1, 1]]))
    for seeds in (torch.arange(3), torch.tensor([0, -1]), torch.rand(2)):
        with refuses("one for each of the 2 rows", str(seeds.dtype), "torch.arange(n)"):
            made.generate(codes(2), Generation("sample"), seeds)
    for change, rule, remedy in [
        ({"width": 0}, "width must be a whole number", "raise it"),
        ({"vocab_size": 1}, "at least 2", "raise it"),
        ({"length": True}, "length must be a whole number", "raise it"),
        ({"layers": 0}, "layers must be", "raise it"),
        ({"eos_id": V}, "eos_id must be a token id", "same tokenizer"),
        ({"bos_id": None}, "bos_id must be a token id", "same tokenizer"),
        ({"dim": 9}, "multiple of heads", "dim 10"),
        ({"dropout": 1.0}, "dropout must be a share", "0.1 is the default"),
    ]:
        with refuses(rule, f"got {next(iter(change))} 9" if "dim" in change else "got", remedy):
            make(**change)


def test_a_generation_that_makes_no_sense_is_refused(refuses) -> None:
    for values, rule, received, remedy in [
        ({"strategy": "best"}, "strategy must be one of greedy, beam, sample", "'best'", "choose"),
        ({"strategy": "beam", "beams": 0}, "beams must be a whole number, at least 1", "got 0", "raise it"),
        ({"strategy": "sample", "temperature": 0.0}, "temperature must be a number above 0", "got 0.0", "greedy"),
        ({"strategy": "sample", "temperature": math.nan}, "temperature must be", "nan", "greedy"),
        ({"strategy": "sample", "top_k": 0}, "top_k must be a whole number, at least 1", "got 0", "raise it"),
        ({"strategy": "sample", "top_p": 1.1}, "top_p must be a share", "1.1", "leave it out"),
        ({"seed": -1}, "seed must be a whole number, at least 0", "-1", "raise it"),
        ({"top_k": 3}, "bear on draws", "top_k with strategy: greedy", "strategy: sample"),
        ({"strategy": "beam", "temperature": 2.0}, "bear on draws", "temperature", "leave them out"),
    ]:
        with refuses(rule, received, remedy):
            Generation(**values)
