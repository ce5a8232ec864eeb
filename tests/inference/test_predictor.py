"""A saved model at work: the same rows in any order and batch, and clear words for what cannot be used."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import latticegnn as lg
from latticegnn.data import Tokenizer
from latticegnn.data.teacher_card import read_teacher, rebuild_teacher, write_teacher
from latticegnn.nn.heads import LinearHead

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "mat",
    "rug",
    "sits",
    "sings",
    "on",
    "under",
    "red",
    "blue",
    "small",
    "large",
]
TEXTS = [" ".join(WORDS[(5 * row + k) % 14] for k in range(1 + row % 9)) + f" {row}" for row in range(150)]
VECTORS = np.random.default_rng(5).normal(size=(6, 32)).astype(np.float32)


def embeddings(predictor: lg.Predictor, inputs: list[str] | np.ndarray) -> np.ndarray:
    return np.array([row["embedding"] for row in predictor.predict(inputs)])


@pytest.fixture(scope="module")
def whole(predictor) -> np.ndarray:
    return embeddings(predictor, TEXTS)


def test_a_row_is_the_teachers_vector_through_the_lattice(saved, predictor, whole) -> None:
    model = lg.LatticeModel.from_pretrained(saved.folder)
    model.attach_teacher(lg.Teacher(str(saved.teacher)))
    np.testing.assert_allclose(whole, model.encode(TEXTS), atol=1e-6)
    assert np.abs(whole - model.teacher.encode(TEXTS)).max() > 0.05, "the lattice does something"
    assert predictor.dim == 32
    assert (predictor.has_decoder, predictor.takes_vectors) == (False, True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 149), min_size=1, max_size=100))
def test_a_row_does_not_hang_on_order_or_batch(predictor, whole, rows) -> None:
    found = embeddings(predictor, [TEXTS[row] for row in rows])
    np.testing.assert_allclose(found, whole[rows], rtol=0, atol=1e-6)


def test_single_rows_answer_as_many_do(predictor) -> None:
    many = predictor.predict(TEXTS[:40], "answers", k=7)
    for text, row in zip(TEXTS, many, strict=False):
        (alone,) = predictor.predict([text], "answers", k=7)
        assert [answer["index"] for answer in alone["answers"]] == [answer["index"] for answer in row["answers"]]
        assert [a["score"] for a in alone["answers"]] == pytest.approx([a["score"] for a in row["answers"]], abs=1e-6)


def test_calls_leave_nothing_behind(predictor, whole) -> None:
    predictor.predict(TEXTS[:3], "answers")
    assert embeddings(predictor, TEXTS[5:6]).tolist() == embeddings(predictor, TEXTS[5:6]).tolist()
    assert json.loads(json.dumps(predictor.predict(TEXTS[:2], "answers"))) == predictor.predict(TEXTS[:2], "answers")
    assert not any(parameter.grad is not None for parameter in predictor.model.parameters())
    assert not predictor.model.training


def test_vectors_are_taken_as_the_teacher_gives_them(saved, predictor, whole) -> None:
    vectors = lg.Teacher(str(saved.teacher)).encode(TEXTS)
    np.testing.assert_allclose(embeddings(predictor, vectors), whole, atol=1e-6)
    np.testing.assert_allclose(embeddings(predictor, vectors.astype(np.float64)), whole, atol=1e-6)
    assert predictor.predict(vectors[:0]) == predictor.predict([]) == []


def test_answers_are_the_nearest(predictor, whole) -> None:
    candidates = predictor.index.vectors.astype(np.float64)
    cosines = whole @ candidates.T / np.linalg.norm(whole, axis=1, keepdims=True)
    for row, scores in zip(predictor.predict(TEXTS, "answers", k=3), cosines, strict=True):
        best = np.argsort(-scores)[:3]
        assert [answer["index"] for answer in row["answers"]] == best.tolist()
        assert [answer["text"] for answer in row["answers"]] == [predictor.index.texts[place] for place in best]
        assert [answer["title"] for answer in row["answers"]] == [f"title {place}" for place in best]
        assert [answer["score"] for answer in row["answers"]] == pytest.approx(scores[best], abs=1e-6)


def test_a_run_and_its_model_are_one(saved, predictor) -> None:
    other = lg.Predictor(saved.folder.parent)
    assert (other.folder, other.fingerprint) == (predictor.folder, predictor.fingerprint)
    assert other.predict(TEXTS[:3]) == predictor.predict(TEXTS[:3])


BAD_TEXTS = {
    "empty": ("", "must have words"),
    "blank": (" \t\u2003\n", "must have words"),
    "number": (3, "must be a string; got 3 of type int"),
    "none": (None, "of type NoneType"),
    "bytes": (b"a cat", "of type bytes"),
    "list": (["a cat"], "of type list"),
    "surrogate": ("a \ud83d cat", "without lone surrogates"),
    "long": ("x" * 1_000_001, "at most 1,000,000 characters; got 1,000,001"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_the_first_bad_text_is_named(name, predictor, refuses) -> None:
    bad, said = BAD_TEXTS[name]
    with refuses("Row 2: A text must", said, "it"):
        predictor.predict(["a cat", "a dog", bad, "", "the mat"])


BAD_VECTORS = {
    "nan": (np.nan, "got nan"),
    "inf": (np.inf, "got inf"),
    "zero": (None, "got zero"),
    "too large for float32": (1e300, "got inf"),
}


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_the_first_bad_vector_is_named(name, predictor, refuses) -> None:
    value, said = BAD_VECTORS[name]
    vectors = VECTORS.astype(np.float64)
    vectors[4] = 0
    vectors[4, 3] = 0 if value is None else value
    with refuses("Row 4: A vector must be finite and not zero", said, "Leave it out"):
        predictor.predict(vectors)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [(VECTORS[:, :7], "got 7"), (VECTORS[0], "[32]"), (VECTORS.astype(int), "int64"), (VECTORS[None], "[1, 6, 32]")],
)
def test_what_is_no_matrix_of_the_models_is_refused_whole(vectors, said, predictor, refuses) -> None:
    with refuses("must", said, ""):
        predictor.predict(vectors)


def test_outputs_that_a_model_does_not_have_are_refused(saved, predictor, tmp_path, refuses, save_lattice) -> None:
    with refuses("output must be one of", "'vector'", "choose one"):
        predictor.predict(["a cat"], "vector")
    with refuses("need a model with a text decoder", "has none", "Ask for"):
        predictor.predict(["a cat"], "text")
    for k in (0, 1.5, True):
        with refuses("k counts answers", f"got {k!r}", "5 is the default"):
            predictor.predict(["a cat"], "answers", k=k)
    with refuses("a list of texts", "the single text 'a cat'", "Write [text]"):
        predictor.predict("a cat")
    save_lattice(tmp_path / "bare")
    bare = lg.Predictor(tmp_path / "bare")
    assert bare.index is None
    assert len(bare.predict(VECTORS)) == 6
    with refuses("Answers need an index", "has no folder answers", "latticegnn index"):
        bare.predict(VECTORS, "answers")
    with refuses("Texts need the teacher", "has no teacher.json", "Pass the teacher"):
        bare.predict(["a cat"])
    given = lg.Predictor(tmp_path / "bare", teacher=lg.Teacher(str(saved.teacher)))
    assert given.predict(["a cat"]) == predictor.predict(["a cat"])
    with refuses("run's folder or a saved model's", str(tmp_path), "runs/latest", FileNotFoundError):
        lg.Predictor(tmp_path)


def test_a_model_that_diverged_is_told(tmp_path, refuses, save_lattice) -> None:
    model = save_lattice(tmp_path / "model")
    with torch.no_grad():
        model.decoder.bias[3] = np.nan
    model.save_pretrained(tmp_path / "model")
    with refuses("answers must be finite", "to row 0", "check both"):
        lg.Predictor(tmp_path / "model").predict(VECTORS)


def test_another_teacher_is_noticed(saved, tmp_path, caplog, refuses, save_teacher) -> None:
    other = lg.Teacher(str(save_teacher(tmp_path / "other", seed=1)))
    lg.Predictor(saved.folder, teacher=other)
    assert "was trained with another teacher" in caplog.text
    folder = shutil.copytree(saved.folder, tmp_path / "model")
    file = folder / "teacher.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"settings": content["settings"] | {"source": str(tmp_path / "other")}}))
    lost = lg.Predictor(folder)
    assert len(lost.predict(VECTORS)) == 6, "vectors need no teacher"
    with refuses("must be the one that the model was trained with", str(tmp_path / "other"), "Restore its files"):
        lost.predict(["a cat"])
    shutil.rmtree(tmp_path / "other")
    with refuses("must be an existing directory", str(tmp_path / "other"), "Check the path", FileNotFoundError):
        lost.predict(["a cat"])
    file.write_text(json.dumps(content | {"settings": content["settings"] | {"trust_remote_code": True}}))
    with refuses("runs only where it is trusted", str(saved.teacher), "pass trust_code=True"):
        lg.Predictor(folder).predict(["a cat"])
    for broken in ("", "[]", "{}", json.dumps(content | {"format": 2}), json.dumps(content | {"dim": "32"})):
        file.write_text(broken)
        with refuses("must name a model's teacher", str(file), "Restore it"):
            lg.Predictor(folder)
    write_teacher(folder, other)
    with refuses("must be vectors of the model's teacher", other.fingerprint[:12], "Index them again"):
        lg.Predictor(folder)


def test_a_teachers_settings_are_kept(saved, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(saved.teacher.parent)
    teacher = lg.Teacher("./teacher", pooling="max", normalize=False, max_length=4, prefix="the ", dtype="bfloat16")
    write_teacher(tmp_path, teacher)
    vectors = teacher.encode(TEXTS[:5])
    monkeypatch.chdir("/")
    rebuilt = rebuild_teacher(tmp_path)
    assert rebuilt.fingerprint == teacher.fingerprint
    np.testing.assert_array_equal(rebuilt.encode(TEXTS[:5]), vectors)


def test_word_vectors_are_a_teacher_too(tmp_path, refuses, save_lattice) -> None:
    lines = [f"{word} " + " ".join(f"{x:.3f}" for x in row) for word, row in zip("abcdef", VECTORS, strict=True)]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    words = lg.data.WordVectors(tmp_path / "glove.txt", lowercase=True)
    save_lattice(tmp_path / "model")
    write_teacher(tmp_path / "model", words)
    predictor = lg.Predictor(tmp_path / "model")
    np.testing.assert_allclose(
        embeddings(predictor, ["A b", "c"]), embeddings(predictor, words.encode(["a b", "c"])), atol=1e-6
    )
    with refuses("Row 1: Every text must consist of known words", "'dog'", "Set unknown to"):
        predictor.predict(["a", "dog", "e e e", "bird"])


def test_an_encoder_of_ones_own_is_named_but_not_built(tmp_path, refuses, save_lattice) -> None:
    class Own:
        source, fingerprint, dim = "mine", "f" * 64, 32

        def encode(self, texts, batch_size=32, progress=False):
            return np.ones((len(texts), 32), dtype=np.float32)

    save_lattice(tmp_path / "model")
    write_teacher(tmp_path / "model", Own())
    assert read_teacher(tmp_path / "model") == (None, "f" * 64, 32)
    with refuses("Texts need the teacher", "a class of its user's", "Pass the teacher"):
        lg.Predictor(tmp_path / "model").predict(["a"])
    assert len(lg.Predictor(tmp_path / "model", teacher=Own()).predict(["a"])) == 1


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, "whitespace", 40)


def head(width: int, tokenizer: Tokenizer) -> LinearHead:
    """A decoder whose texts differ from row to row."""
    made = LinearHead(width, tokenizer.vocab_size, 5, tokenizer.pad_id, tokenizer.eos_id)
    torch.nn.init.normal_(made.map.weight, generator=torch.Generator().manual_seed(0))
    return made


def test_texts_come_from_the_decoder(saved, tmp_path, tokenizer, call) -> None:
    lattice = lg.LatticeModel.from_pretrained(saved.folder)
    text_model = lg.TextModel(lattice, head(32, tokenizer), tokenizer)
    text_model.save_pretrained(tmp_path / "model")
    write_teacher(tmp_path / "model", lg.Teacher(str(saved.teacher)))
    predictor = lg.Predictor(tmp_path / "model")
    vectors = torch.from_numpy(lg.Teacher(str(saved.teacher)).encode(TEXTS[:30]))
    assert [row["text"] for row in predictor.predict(TEXTS[:30], "text")] == text_model.generate(vectors)
    assert predictor.has_decoder
    assert predictor.fingerprint != lg.Predictor(saved.folder).fingerprint
    drawn = lg.Generation("sample", temperature=3.0, seed=4)
    many = predictor.predict(TEXTS[:30], "text", generation=drawn)
    assert [predictor.predict([text], "text", generation=drawn)[0] for text in TEXTS[:30]] == many
    assert many != predictor.predict(TEXTS[:30], "text", generation=lg.Generation("sample", temperature=3.0, seed=5))
    words = ("predict", "--model", tmp_path / "model", "--text", TEXTS[3])
    assert [json.loads(line) for line in call(*words)[1]] == [{"line": 1} | predictor.predict(TEXTS[3:4], "text")[0]]
    drawing = ("--generation.strategy", "sample", "--generation.temperature", "3.0", "--generation.seed", "4")
    assert [json.loads(line) for line in call(*words, *drawing)[1]] == [{"line": 1} | many[3]]
    status, _, err = call(*words, "--generation.top_k", 3)
    assert status == 2
    assert "bear on draws" in err[0]


def test_a_lattice_of_token_ids_reads_texts_itself(tmp_path, tokenizer, refuses, save_lattice) -> None:
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    lattice = save_lattice(tmp_path / "lattice", tokens=ids, skip=False)
    text_model = lg.TextModel(lattice, head(32, tokenizer), tokenizer).eval()
    text_model.save_pretrained(tmp_path / "model")
    predictor = lg.Predictor(tmp_path / "model")
    assert not predictor.takes_vectors
    rows, _ = tokenizer.encode(TEXTS[:20], 5, eos=True)
    assert [row["text"] for row in predictor.predict(TEXTS[:20], "text")] == text_model.generate(rows)
    with torch.no_grad():
        expected = lattice(rows).embedding.numpy()
    np.testing.assert_allclose(embeddings(predictor, TEXTS[:20]), expected, atol=1e-6)
    with refuses("Row 1: A text must have words", "empty", "Leave it out"):
        predictor.predict(["a cat", ""])
    with refuses("for a lattice that takes embeddings", "takes token ids", "Give texts"):
        predictor.predict(VECTORS)
    with refuses("needs its tokenizer", "the lattice alone", "Save the TextModel"):
        lg.Predictor(tmp_path / "lattice")
