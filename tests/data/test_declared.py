"""Directories of sentence-transformers: the same vectors as its own, and a refusal of what a teacher does not do."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latticegnn.data import Teacher, sentences

TEXTS = ["the cat sits on the mat", "a dog", "the small red bird sings under the blue rug", "cat"]
MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}


def built(directory: Path, pooling: Any = "mean", normalize: bool = True, max_length: int = 100, **pool: Any) -> Any:
    """A SentenceTransformer over a saved model, with the modules that a teacher follows."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(directory), max_seq_length=max_length)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling, **pool)]
    return SentenceTransformer(modules=modules + [Normalize()] * normalize, device="cpu")


def changed(file: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("sentence-transformers")
    built(tiny()).save(str(directory), create_model_card=False)
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_directory_reads_as_sentence_transformers_reads_it(tiny, tmp_path, mode, normalize):
    theirs = built(tiny(), mode, normalize)
    theirs.save(str(tmp_path), create_model_card=False)
    teacher = Teacher(str(tmp_path))
    assert (teacher.pooling, teacher.normalize, teacher.max_length) == (MODES[mode], normalize, 100)
    np.testing.assert_allclose(teacher.encode(TEXTS), theirs.encode(TEXTS), rtol=1e-5, atol=1e-6)


def test_the_default_prompt_is_the_prefix(saved, copy):
    changed(copy / "config_sentence_transformers.json", prompts={"q": "red cat "}, default_prompt_name="q")
    teacher = Teacher(str(copy))
    assert teacher.prefix == "red cat "
    np.testing.assert_array_equal(teacher.encode(TEXTS), Teacher(str(saved), prefix="red cat ").encode(TEXTS))
    assert Teacher(str(copy), prefix="").prefix == ""


def test_what_is_given_wins(saved, copy):
    own = Teacher(str(saved), pooling="max", normalize=False, max_length=5)
    assert (own.pooling, own.normalize, own.max_length) == ("max", False, 5)
    changed(copy / "1_Pooling/config.json", pooling_mode="weightedmean")
    np.testing.assert_array_equal(Teacher(str(copy), pooling="max", normalize=False, max_length=5).encode(TEXTS),
                                  own.encode(TEXTS))  # fmt: skip


def test_old_files_are_read(copy):
    (copy / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    (copy / "sentence_bert_config.json").rename(copy / "sentence_roberta_config.json")
    changed(copy / "sentence_roberta_config.json", max_seq_length=77)
    assert (Teacher(str(copy)).pooling, Teacher(str(copy)).max_length) == ("cls", 77)


def test_length_without_a_statement_is_the_models(tiny, copy):
    changed(copy / "tokenizer_config.json", model_max_length=int(1e30))
    assert Teacher(str(copy)).max_length == 160
    assert Teacher(str(tiny())).max_length == 128


@pytest.mark.parametrize(
    ("file", "values", "rule", "received"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pooling must be one of", "asks for mean and max"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pooling must be one of", "asks for weightedmean"),
        ("1_Pooling/config.json", {"include_prompt": False}, "pools over all tokens", "include_prompt is false"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "must have do_lower_case False", "has True"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "must have transformer_task", "'fill-mask'"),
    ],
)
def test_settings_that_a_teacher_does_not_follow(copy, refuses, file, values, rule, received):
    changed(copy / file, **values)
    with refuses(rule, received, "Embed with sentence-transformers"):
        Teacher(str(copy))
    with refuses(rule, str(copy / file), "Embed with sentence-transformers"):
        Teacher(str(copy))


OURS = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]


@pytest.mark.parametrize(
    "kinds",
    [
        [*OURS, "sentence_transformers.models.Dense"],
        [OURS[0], "sentence_transformers.models.WeightedLayerPooling", OURS[1]],
        [OURS[0], "their_code.Pooling"],
        OURS[:1],
        [],
    ],
)
def test_other_modules_are_refused_even_where_all_is_given(copy, refuses, kinds):
    (copy / "modules.json").write_text(json.dumps([{"path": "", "type": kind} for kind in kinds]))
    with refuses("must be Transformer, Pooling", str(kinds), "Embed with sentence-transformers"):
        Teacher(str(copy), pooling="mean", normalize=True, max_length=10)


def test_a_real_dense_module_is_refused(tiny, tmp_path, refuses):
    from sentence_transformers.base.modules import Dense

    model = built(tiny(), normalize=False)
    model.append(Dense(32, 8))
    model.save(str(tmp_path), create_model_card=False)
    with refuses("must be Transformer, Pooling", "modules.dense.Dense", "choose another teacher"):
        Teacher(str(tmp_path))


def test_missing_or_damaged_files(copy, refuses):
    (copy / "1_Pooling/config.json").unlink()
    missing = "1_Pooling/config.json is missing"
    with refuses("must have its configuration", missing, "fetch the whole directory again", FileNotFoundError):
        Teacher(str(copy))
    assert Teacher(str(copy), pooling="max").pooling == "max"
    for content, reason in (("{", "Expecting"), ("{}", "it holds a dict, not a list")):
        (copy / "modules.json").write_text(content)
        with refuses("must be readable JSON", reason, "fetch it again"):
            Teacher(str(copy))


def differs_from_sentence_transformers(texts: list[str]) -> float:
    teacher = Teacher()
    theirs = built(teacher._directory, max_length=128)
    return float(np.abs(teacher.encode(texts) - theirs.encode(texts)).max())


def test_minilm_gives_the_vectors_of_sentence_transformers():
    assert differs_from_sentence_transformers([*TEXTS, " ".join(TEXTS * 10)]) < 1e-5


@pytest.mark.slow
def test_minilm_gives_the_vectors_of_sentence_transformers_on_the_corpus():
    texts = [text for split in sentences(limit=200).splits.values() for text in split.inputs]
    assert len(texts) == 200
    assert differs_from_sentence_transformers(texts) < 1e-5
