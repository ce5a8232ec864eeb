"""From a setting to an instance: every form that works, every error and its remedy."""

import pytest
from torch import nn

from latticegnn.nn import MLPExpert
from latticegnn.nn.classpath import build, foreign, resolve
from latticegnn.nn.experts import MeanFieldExpert

NAMES = {"mlp": MLPExpert, "mean_field": MeanFieldExpert}
OFFERED = {"channels": 3, "moments": 12, "hidden": 7, "in_channels": 3, "out_channels": 3}


def test_a_class_is_found_by_name_path_or_file(tmp_path) -> None:
    file = tmp_path / "layers.v2.py"
    file.write_text("import dataclasses\n\n\n@dataclasses.dataclass\nclass Mine:\n    size: int = 3\n")
    assert resolve("mlp", NAMES) is MLPExpert
    assert resolve("torch.nn.Linear", NAMES) is nn.Linear
    found = resolve(f"{file}:Mine", NAMES)
    assert found().size == 3
    assert resolve(f"{file}:Mine", NAMES) is found


def test_arguments_left_out_are_offered_and_given_ones_win() -> None:
    expert = build("mlp", NAMES, **OFFERED)
    assert (expert.inner.in_features, expert.inner.out_features) == (15, 7)
    assert build({"class_path": "mlp", "init_args": None}, NAMES, **OFFERED).inner.out_features == 7
    assert build({"class_path": "mlp", "init_args": {"hidden": 2}}, NAMES, **OFFERED).inner.out_features == 2
    assert build("mean_field", NAMES, **OFFERED).drive.in_features == 15  # it takes no hidden


def test_settings_among_the_arguments_are_built_first() -> None:
    mlp = {"class_path": "torch_geometric.nn.MLP", "init_args": {"channel_list": [3, 5, 3]}}
    layer = build({"class_path": "torch_geometric.nn.GINConv", "init_args": {"nn": mlp, "eps": 0.5}}, {}, **OFFERED)
    assert layer.nn.channel_list == [3, 5, 3]
    assert layer.initial_eps == 0.5


def test_a_class_with_keyword_arguments_of_any_name_gets_them() -> None:
    layer = build(
        {"class_path": "torch_geometric.nn.SAGEConv", "init_args": {"flow": "target_to_source"}}, {}, **OFFERED
    )
    assert layer.flow == "target_to_source"


@pytest.mark.parametrize(
    ("setting", "rule", "received", "remedy"),
    [
        (7, "a name or as a mapping", "got 7", "write {class_path: …"),
        ({"init_args": {}}, "a name or as a mapping", "got {'init_args': {}}", "write {class_path: …"),
        ({"class_path": "mlp", "args": {}}, "a name or as a mapping", "'args'", "write {class_path: …"),
        ({"class_path": ["mlp"]}, "class_path is a text", "['mlp']", "write {class_path: …"),
        ({"class_path": "mlp", "init_args": [3]}, "init_args a mapping", "[3]", "write {class_path: …"),
        ("mpl", "one of mlp, mean_field, a dotted path", "got 'mpl'", "did you mean 'mlp'?"),
        ("Quux", "one of mlp, mean_field, a dotted path", "got 'Quux'", "choose one of them"),
        ("no_such_package.Layer", "an importable class", "No module named 'no_such_package'", "check the spelling"),
        (".Layer", "an importable class", "got '.Layer'", "check the spelling"),
        ("..nn.Layer", "an importable class", "got '..nn.Layer'", "check the spelling"),
        ("torch.nn.Linaer", "must name a class", "no class 'Linaer'", "did you mean 'Linear'?"),
        ("torch.nn.Qqqqqqq", "must name a class", "no class 'Qqqqqqq'", "check the spelling"),
        ("torch.pi", "must name a class", "no class 'pi'", "check the spelling"),
        ("no/such/file.py:Mine", "an existing file", "no file no/such/file.py", "check the path"),
        ("subprocess.Popen", "must name a torch module", "'subprocess.Popen'", "name a layer's class"),
        ({"class_path": "mlp", "init_args": {"hiden": 3}}, "arguments it takes", "'hiden'", "did you mean 'hidden'?"),
        ({"class_path": "mlp", "init_args": {"zzz": 3}}, "arguments it takes", "'zzz'", "it takes channels, moments"),
        ("torch.nn.Linear", "buildable from its init_args", "got none", "correct them"),
        ("latticegnn.nn.Expert", "buildable from its init_args", "abstract class", "correct them"),
        (
            {"class_path": "torch_geometric.nn.GINConv", "init_args": {"nn": {"class_path": "torch.nn.Lniear"}}},
            "must name a class",
            "no class 'Lniear'",
            "did you mean 'Linear'?",
        ),
        (
            {"class_path": "torch_geometric.nn.GINConv", "init_args": {"nn": {"class_path": "mlp"}}},
            "a dotted path",
            "got 'mlp'",
            "choose one of them",
        ),
    ],
    ids=str,
)
def test_errors_say_what_to_do(setting, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build(setting, NAMES, **OFFERED)


def test_a_file_without_the_class_and_a_file_that_fails(tmp_path, refuses) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Diffuse:\n    pass\n")
    with refuses("must name a class", "no class 'Difuse'", "did you mean 'Diffuse'?"):
        resolve(f"{file}:Difuse", {})
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('half written')\n")
    for _ in range(2):  # the second time too: a half-loaded module is not kept
        with refuses("a file that can be run", "RuntimeError: half written", "mend it"):
            resolve(f"{broken}:Layer", {})


def test_paths_that_lead_outside_are_found_at_any_depth() -> None:
    assert foreign("mlp", {"mlp": dict}) == []
    assert foreign({"class_path": "torch_geometric.nn.SAGEConv"}, {}) == []
    assert foreign({"class_path": "latticegnn.nn.Expert"}, {}) == []
    assert foreign("mine.py:Layer", {}) == ["mine.py:Layer"]
    nested = {"class_path": "torch_geometric.nn.GINConv", "init_args": {"nn": {"class_path": "evil.Net"}, "eps": 1}}
    assert foreign(nested, {}) == ["evil.Net"]
