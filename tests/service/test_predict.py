"""Questions over HTTP: the answers are the model's own, whatever shares their forward, and nonsense is refused."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import latticegnn as lg
from latticegnn.data import Tokenizer
from latticegnn.nn import build_decoder
from latticegnn.predictor import Predictor
from latticegnn.service.limits import Limits
from latticegnn.service.questions import Refusal, read_question
from latticegnn.text_model import TextModel

DIM = 12
VECTORS = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
LIMITS = Limits(request_rows=8, text_characters=40, answers=9)
GOOD = {"embeddings": [[1.0] * DIM]}


def test_rows_are_the_predictors(ask, predictor) -> None:
    status, found = ask({"embeddings": VECTORS[:3].tolist()})
    assert (status, found) == (200, {"rows": predictor.predict(VECTORS[:3])})
    status, found = ask({"texts": ["north wind", "éàü 雪"], "output": "answers", "k": 2})
    assert (status, found) == (200, {"rows": predictor.predict(["north wind", "éàü 雪"], output="answers", k=2)})
    assert [len(row["answers"]) for row in found["rows"]] == [2, 2]
    status, found = ask({"texts": ["east"], "output": "answers"}, content_type='application/json; charset="UTF-8"')
    assert (status, found["rows"][0]["answers"][0]["index"]) == (200, 1)


def test_a_model_with_a_decoder_writes_texts(tmp_path, serving, client, at_once) -> None:
    words = ["the cat sat on the mat", "a dog and a small bird"]
    tokenizer = Tokenizer.train(words, "whitespace", 40)
    spec = lg.LatticeSpec(shape=(3, 3, 4), radii=(0.5, 1.0, 1.5))
    known = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    lattice = lg.LatticeModel(spec, embedding_dim=6, channels=3, hidden=4, steps=4, tokens=known)
    decoder = build_decoder({"kind": "linear", "width": 6, "length": 5, "eos_id": tokenizer.eos_id} | known)
    TextModel(lattice, decoder, tokenizer, "embedding").save_pretrained(tmp_path)
    model = Predictor(tmp_path)
    with serving(model, wait_ms=200) as port:
        assert client(port)(None, "/", "GET")[1]["outputs"] == ["embedding", "text"]
        asked = [{"texts": [text], "output": "text"} for text in words]
        (one, first), (two, second) = at_once(*(partial(client(port), question) for question in asked))
        assert (one, two, first["rows"] + second["rows"]) == (200, 200, model.predict(words, output="text"))
        status, answer = client(port)({"embeddings": [[1.0] * 6]})
        assert (status, "takes token ids" in answer["error"]) == (422, True)


def test_a_row_does_not_depend_on_what_shares_its_forward(gated, serving, client, at_once) -> None:
    slow = gated()
    sizes = [1, 3, 2, 5, 1, 4, 1, 7]
    parts = np.split(VECTORS[: sum(sizes)], np.cumsum(sizes)[:-1])
    with serving(slow, wait_ms=200) as port:
        slow.gate.set()
        found = at_once(*(partial(client(port), {"embeddings": part.tolist()}) for part in parts))
    assert max(count for count, _, _ in slow.calls) > max(sizes)
    assert len({thread for _, _, thread in slow.calls}) == 1
    for part, (status, answer) in zip(parts, found, strict=True):
        assert status == 200
        got = np.array([row["embedding"] for row in answer["rows"]])
        alone = np.array([row["embedding"] for row in slow.model.predict(part)])
        np.testing.assert_allclose(got, alone, rtol=0, atol=1e-6)


def test_what_differs_in_kind_is_computed_apart(gated, serving, client, at_once) -> None:
    slow, texts = gated(), {"texts": ["north"]}
    asked = [GOOD, texts, texts | {"output": "answers"}, texts | {"output": "answers", "k": 1}, GOOD, texts]
    with serving(slow, wait_ms=200) as port:
        slow.gate.set()
        found = at_once(*(partial(client(port), question) for question in asked))
    assert [status for status, _ in found] == [200] * 6
    assert sorted(call[:2] for call in slow.calls) == [(1, "answers")] * 2 + [(2, "embedding")] * 2
    assert [len(answer["rows"][0].get("answers", [])) for _, answer in found] == [0, 0, 4, 1, 0, 0]


@pytest.mark.parametrize(("fault", "status"), [(RuntimeError("out of memory"), 500), (ValueError("a; b; c"), 422)])
def test_a_fault_of_one_fails_none_of_the_others(gated, serving, client, at_once, fault, status, caplog) -> None:
    slow, bad = gated(fault), {"embeddings": [[666.0] + [1.0] * (DIM - 1)]}
    with serving(slow, wait_ms=300) as port:
        slow.gate.set()
        found = at_once(*(partial(client(port), bad if place == 3 else GOOD) for place in range(8)))
        assert client(port)(GOOD)[0] == 200
    assert [got for got, _ in found] == [200] * 3 + [status] + [200] * 4
    assert max(count for count, _, _ in slow.calls) > 2
    rows = np.array([answer["rows"][0]["embedding"] for got, answer in found if got == 200])
    np.testing.assert_allclose(rows, rows[:1].repeat(7, axis=0), rtol=0, atol=1e-6)
    assert ("out of memory" in found[3][1]["error"]) is False  # what went wrong inside is for the log
    assert ("out of memory" in caplog.text) is (status == 500)


@pytest.mark.parametrize(
    ("body", "status", "rule", "received"),
    [
        (b"", 400, "one JSON object", "0 bytes"),
        (b"{", 400, "one JSON object", "Expecting property name"),
        (b'{"texts": ["a"]} x', 400, "one JSON object", "Extra data"),
        (b"[" * 15_000, 400, "one JSON object", "recursion"),
        (b'{"a":' * 3_000, 400, "one JSON object", "recursion"),
        (b'{"texts": ["\xff"]}', 400, "in UTF-8", "can't decode byte 0xff"),
        (json.dumps({"texts": ["a"]}).encode("utf-16"), 400, "in UTF-8", "can't decode"),
        (b'{"texts": ["a"], "texts": ["b"]}', 400, "one JSON object", "the field texts twice"),
        (b'{"embeddings": [[NaN]]}', 400, "one JSON object", "NaN, which JSON does not have"),
        (b'{"embeddings": [[-Infinity]]}', 400, "one JSON object", "-Infinity"),
        (b'{"k": ' + b"9" * 5_000 + b"}", 400, "one JSON object", "4300 digits"),
        (b'["texts"]', 400, "one JSON object", "['texts']"),
        (b"null", 400, "one JSON object", "None"),
        (b"{}", 422, "either texts or embeddings", "[]"),
        (b'{"texts": ["a"], "embeddings": [[1]]}', 422, "either texts or embeddings", "['embeddings', 'texts']"),
        (b'{"text": ["a"]}', 422, "fields are texts", "text; Did you mean 'texts'?"),
        (b'{"texts": ["a"], "\\u0000": 1}', 422, "fields are texts", r"'\x00'; leave it out"),
        (b'{"texts": []}', 422, "list of 1 to 8 rows", "0 rows; send at least one"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "list of 1 to 8 rows", "9 rows"),
        (b'{"texts": "abc"}', 422, "list of 1 to 8 rows", "str; put it into brackets"),
        (b'{"texts": {"0": "abc"}}', 422, "list of 1 to 8 rows", "dict"),
        (b'{"texts": ["a", 1]}', 422, "must be a string", "1 as text 1"),
        (b'{"texts": ["a", " \\n"]}', 422, "must have words", "' \\n' as text 1"),
        (b'{"texts": ["' + b"a" * 41 + b'"]}', 422, "at most 40 characters", "41 in text 0"),
        (b'{"texts": ["\\ud800"]}', 422, "must be Unicode", "text 0"),
        (b'{"embeddings": [1.0]}', 422, "list of 12 numbers", "float in row 0"),
        (b'{"embeddings": [[1.0]]}', 422, "list of 12 numbers", "1 numbers in row 0"),
        (json.dumps({"embeddings": [[1] * 12, [True] * 12]}).encode(), 422, "numbers alone", "True in row 1"),
        (json.dumps({"embeddings": [["1"] * 12]}).encode(), 422, "numbers alone", "1 in row 0"),
        (json.dumps({"embeddings": [[None] * 12]}).encode(), 422, "numbers alone", "None in row 0"),
        (b'{"embeddings": [[' + b"1e39, " * 11 + b"1]]}", 422, "finite in float32", "row 0"),
        (b'{"embeddings": [[' + b"1e999, " * 11 + b"1]]}", 422, "finite in float32", "row 0"),
        (json.dumps({"embeddings": [[10**400] * 12]}).encode(), 422, "finite in float32", "row 0"),
        (json.dumps({"embeddings": [[0] * 12]}).encode(), 422, "must not be zero", "row 0"),
        (b'{"texts": ["a"], "output": "anwers"}', 422, "output must be one of", "anwers; Did you mean 'answers'?"),
        (b'{"texts": ["a"], "output": ["text"]}', 422, "output must be one of", "['text']"),
        (b'{"texts": ["a"], "output": "text"}', 422, "text decoder", "one without"),
        (b'{"texts": ["a"], "k": 2}', 422, "for output answers alone", "k with output embedding"),
        (b'{"texts": ["a"], "output": "answers", "k": 0}', 422, "from 1 to 9", "got 0"),
        (b'{"texts": ["a"], "output": "answers", "k": 10}', 422, "from 1 to 9", "got 10"),
        (b'{"texts": ["a"], "output": "answers", "k": true}', 422, "from 1 to 9", "got True"),
        (b'{"texts": ["a"], "output": "answers", "k": 2.0}', 422, "from 1 to 9", "got 2.0"),
        (b" " * 20_001, 413, "at most 20000 bytes", "got more"),
        (b" " * 1_000_000, 413, "at most 20000 bytes", "got more"),
    ],
)
def test_nonsense_is_refused_in_three_parts(port, client, body, status, rule, received) -> None:
    ask = client(port)
    got, answer = ask(body)
    assert got == status
    error = answer["error"]
    assert rule in error
    assert received in error
    assert error.count("; ") >= 2
    assert error[-1] in ".?"
    assert len(error) < 300
    assert ask(GOOD)[0] == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda parts: st.lists(parts, max_size=12) | st.dictionaries(st.text(max_size=9), parts, max_size=4),
)
FIELDS = st.sampled_from(["texts", "embeddings", "output", "k", "text"])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.builds(json.dumps, VALUES | st.dictionaries(FIELDS, VALUES)).map(str.encode))
def test_any_body_is_a_question_or_refused(predictor, body) -> None:
    refused = None
    try:
        question = read_question(body, predictor, LIMITS)
    except Refusal as refusal:
        refused = refusal
    if refused is None:
        assert len(predictor.predict(question.inputs, question.output, question.k)) == len(question.inputs)
    else:
        assert refused.status in (400, 422)
        assert str(refused).count("; ") >= 2


@pytest.mark.parametrize("around", ["%s", '{"texts": %s}', '{"embeddings": [%s]}', '{"texts": ["a"], "k": %s}'])
def test_no_depth_is_too_deep_to_be_refused(predictor, around) -> None:
    for depth in [*range(1, 60, 7), *range(300, 1100)]:
        with pytest.raises(Refusal):
            read_question((around % ("[" * depth + "]" * depth)).encode(), predictor, LIMITS)


def test_what_is_no_json_is_refused_by_its_header(port, client) -> None:
    ask = client(port)
    for headers, received in (
        ({"content_type": "text/plain"}, "text/plain"),
        ({"content_type": "application/json; charset=latin-1"}, "latin-1"),
        ({"content_type": ""}, "no type"),
        ({"content_encoding": "gzip"}, "gzip"),
    ):
        status, answer = ask(GOOD, **headers)
        assert (status, received in answer["error"]) == (415, True)
    assert ask(GOOD)[0] == 200


def test_addresses_and_methods(port, client) -> None:
    ask = client(port)
    status, answer = ask(None, "/predikt")
    assert (status, "got POST /predikt" in answer["error"]) == (404, True)
    status, answer = ask(None, "/predict", "GET")
    assert (status, ask.response.headers["allow"]) == (405, "POST")
    assert "got GET /predict" in answer["error"]
    assert ask(GOOD, "/health", "DELETE")[0] == 405


def test_what_the_service_says_of_itself(predictor, serving, client) -> None:
    with serving(predictor, answers=3) as port:
        ask = client(port)
        status, health = ask(None, "/health", "GET")
        assert (status, health["ready"], health["model"]) == (200, True, "tiny")
        assert 0 < health["seconds"] < 20
        status, info = ask(None, "/", "GET")
        assert (status, info["dim"], info["outputs"]) == (200, DIM, ["embedding", "answers"])
        assert info["limits"]["answers"] == 3
        assert ask({"embeddings": VECTORS[:3].tolist()})[0] == 200
        assert ask({})[0] == 422
        status, text = ask(None, "/metrics", "GET")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures.pop("latticegnn_forward_seconds_total")) > 0
    assert figures == {
        'latticegnn_requests_total{status="200"}': "1",
        'latticegnn_requests_total{status="422"}': "1",
        "latticegnn_rows_total": "3",
        "latticegnn_forwards_total": "1",
        "latticegnn_waiting_rows": "0",
    }
