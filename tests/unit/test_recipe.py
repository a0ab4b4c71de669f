"""Recipes: every error at once, each in words, with the nearest key."""

from pathlib import Path

import pytest

from pipeline import recipe
from pipeline.errors import UsageError
from pipeline.recipe_tables import training

GOOD = """
model = "net:build"
data = "data:splits"
targets = ["openvino"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "deploy.toml"
    path.write_text(text)
    return path


def test_four_lines_are_enough(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path, GOOD))
    assert loaded.stages == ("prune", "distill")
    assert loaded.folder == tmp_path
    assert loaded.checkpoint is None


def test_the_shipped_example_loads() -> None:
    loaded = recipe.load(recipe.EXAMPLE)
    assert set(loaded.targets) == {"openvino", "tflite", "onnxruntime"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "[prune]\nmac = 0.5\n", "unknown key 'prune.mac': did you mean 'prune.macs'?"),
        (GOOD + "chekpoint = 'x'\n", "unknown key 'chekpoint': did you mean 'checkpoint'?"),
        (GOOD + "[prune]\nmacs = 0\n", "prune.macs: Input should be greater than 0"),
        (GOOD + "[prune]\nmacs = 1.0\n", "prune.macs: Input should be less than 1"),
        (GOOD + "[prune]\nmacs = 'half'\n", "prune.macs: Input should be a valid number"),
        (GOOD + "[prune]\nmacs = nan\n", "prune.macs"),
        (GOOD.replace("net:build", "net.build"), "model: expected 'module:function'"),
        (GOOD.replace("model", "modle"), "missing key 'model'"),
        (GOOD.replace('["openvino"]', "[]"), "targets: Tuple should have at least 1 item"),
        (GOOD.replace('["openvino"]', '["openvino", "openvino"]'), "names one twice"),
        (GOOD + "stages = ['distill', 'prune']\n", "put 'prune' before it"),
        (GOOD + "stages = ['prune', 'prune']\n", "twice in a row"),
        (GOOD + "stages = ['prune', 'quantize']\n", "'quantize' runs by itself"),
        (GOOD + "[calibrate]\nobservers = ['octaf']\n", "unknown observer 'octaf': did you mean 'octav'?"),
        (GOOD + "[calibrate]\nobservers = []\n", "calibrate.observers: Tuple should have at least 1 item"),
        (GOOD + "[calibrate]\nobservers = ['mse', 'mse']\n", "calibrate.observers: one is named twice"),
        (
            GOOD + "[weights]\nmethod = 'round'\n",
            "weights.method: Input should be 'none', 'bias', 'rounding' or 'adaround'",
        ),
        (GOOD + "stages = ['weights']\n", "'weights' runs by itself"),
        (GOOD + "stages = ['prun']\n", "stages.0: Input should be 'prune' or 'distill'"),
        (GOOD + "[prune]\nschedule = 'groups'\n", "go together"),
        (GOOD + "[prune.groups]\na = 0.5\n", "go together"),
        (GOOD + "[prune]\nschedule = 'groups'\ngroups = {a = 0}\n", "prune.groups.a: Input should be greater than 0"),
        (GOOD + "[prune]\ncriterion = 'tailor'\n", "prune.criterion: Input should be"),
        (GOOD + "[prune]\npattern = '4:4'\n", "removes nothing"),
        (GOOD + "[prune]\ngranularity = 'weight'\nschedule = 'greedy'\n", "knows the schedules uniform"),
        (GOOD + "[distill]\npenalty = 'l1'\n", "penalty and strength go together"),
        (GOOD + "stages = ['prune']\n[prune]\nschedule = 'iterative'\n", "repeats stages"),
        (GOOD + "folder = '/tmp'\n", "unknown key 'folder'"),
        ("model = ", "not valid TOML"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.load(write(tmp_path, text))
    assert says in str(caught.value)
    assert "deploy.toml" in str(caught.value)


def test_all_errors_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("net:build", "net") + "bacth = 2\n[prune]\nmacs = 2\n[gate]\nmargin_points = -1\n"
    with pytest.raises(UsageError) as caught:
        recipe.load(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 4


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe at"):
        recipe.load(tmp_path / "none.toml")


def test_overrides_reach_any_value(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    loaded = recipe.load(path, ["prune.macs=0.25", "quantize.prefer=size", "stages=['prune']", "seed=7"])
    assert (loaded.prune.macs, loaded.quantize.prefer, loaded.stages, loaded.seed) == (0.25, "size", ("prune",), 7)


@pytest.mark.parametrize("override", ["prune.macs", "=3", "prune..macs=1", "model.x=1", "folder=2"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError):
        recipe.load(write(tmp_path, GOOD), [override])


def test_a_target_may_have_budgets_of_its_own(tmp_path: Path) -> None:
    text = GOOD + "[gate]\nmargin_points = 2\n[gate.targets.openvino]\nmax_size_bytes = 100\nmargin_points = 3\n"
    gate = recipe.load(write(tmp_path, text)).gate
    assert gate.of("openvino")["max_size_bytes"] == 100
    assert gate.of("openvino")["margin_points"] == 3.0
    assert gate.of("tflite")["max_size_bytes"] is None
    assert gate.of("tflite")["margin_points"] == 2.0


def test_budgets_of_an_unknown_target_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gate\.targets: .'openvin'. not among"):
        recipe.load(write(tmp_path, GOOD + "[gate.targets.openvin]\nmax_size_bytes = 1\n"))


def test_an_iterative_schedule_repeats_the_stages(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path, GOOD + "[prune]\nschedule = 'iterative'\nsteps = 2\n"))
    assert loaded.sequence() == ("prune", "distill", "prune", "distill")
    assert recipe.load(write(tmp_path, GOOD)).sequence() == ("prune", "distill")


def test_every_criterion_can_be_chosen() -> None:
    from typing import get_args

    from pipeline.compression.criteria import CRITERIA

    assert list(get_args(training.Criterion)) == list(CRITERIA)


def test_a_slice_by_tag_can_be_set_although_its_name_has_an_equals_sign(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path, GOOD), ["gate.slices.tag:light=dusk=5%", "gate.slices.class:up=3"])
    assert loaded.gate.slices == {"tag:light=dusk": "5%", "class:up": 3}


def test_a_policy_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text("margin_points = 0.5\n[metrics]\nmacro_f1 = 2.0\n")
    file = write(tmp_path, GOOD.replace("model", "gate = 'release.toml'\nmodel", 1))
    loaded = recipe.load(file, ["gate.min_samples=100"])
    assert loaded.gate.margin_points == 0.5
    assert loaded.gate.metrics == {"macro_f1": 2.0}
    assert loaded.gate.min_samples == 100


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (None, "no policy at {folder}/release.toml: a file with the keys of [gate]"),
        ("margin = [", "release.toml: not valid TOML"),
        ("margin_point = 1\n", "(gate: release.toml): unknown key 'gate.margin_point': did you mean 'gate.margin_poi"),
        ("margin_points = -1\n", "(gate: release.toml): gate.margin_points: Input should be greater than 0"),
    ],
)
def test_a_policy_file_that_is_wrong_is_named(tmp_path: Path, policy: str | None, says: str) -> None:
    if policy is not None:
        (tmp_path / "release.toml").write_text(policy)
    with pytest.raises(UsageError) as caught:
        recipe.load(write(tmp_path, "gate = 'release.toml'\n" + GOOD))
    assert says.format(folder=tmp_path) in str(caught.value)
