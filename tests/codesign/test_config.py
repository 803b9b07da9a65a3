import textwrap

import pytest

import codesign.config
from codesign.config import PASSES, load_config, override
from codesign.errors import UserError

SMALL = """
[sweep]
model = "net.py:build"
target = "host"
quality = "task.py:evaluate"
calibration = "task.py:batches"

[goal]
metric = "mrr"
"""


def write(folder, text=SMALL):
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def test_the_example_of_the_docstring_is_valid(tmp_path):
    example = codesign.config.__doc__.split("required:\n\n")[1].split("\n\nPaths")[0]
    config = load_config(write(tmp_path, textwrap.dedent(example)))
    assert config.goal.max_loss == 0.01
    assert config.budget.measurements == 40
    assert (config.goal.max_size_mb, config.goal.size) == (20.0, True)
    assert config.dims == {"batch": 1, "sequence": 128}
    assert config.output == str(tmp_path / "runs/minilm")


def test_what_is_left_out_has_a_value(tmp_path):
    config = load_config(write(tmp_path))
    assert (config.threads, config.passes, config.budget.minutes) == (1, PASSES, None)
    assert not config.goal.sized


def test_codebooks_are_used_where_a_goal_asks_for_size(tmp_path):
    config = load_config(write(tmp_path))
    assert config.used_passes == tuple(p for p in PASSES if p != "codebook")
    for goal in ({"size": True}, {"max_size_mb": 3.0}):
        changed = override(config, **goal)
        assert changed.goal.sized
        assert changed.used_passes == PASSES
    assert override(config, size=True, passes=("ffn",)).used_passes == ("ffn",)
    assert not override(override(config, size=True), size=False).goal.sized


def test_paths_are_relative_to_the_file(tmp_path):
    config = load_config(write(tmp_path))
    assert config.model == f"{tmp_path}/net.py:build"
    assert config.quality == f"{tmp_path}/task.py:evaluate"
    onnx = load_config(write(tmp_path, SMALL.replace("net.py:build", "net.onnx")))
    assert onnx.model == f"{tmp_path}/net.onnx"


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("phone.toml", "{0}/phone.toml"),
        ("mine/phone.toml/little+dotprod+i8mm", "{0}/mine/phone.toml/little+dotprod+i8mm"),
        ("/etc/phone.toml", "/etc/phone.toml"),
        ("pixel-8/little+sve", "pixel-8/little+sve"),
        ("host", "host"),
    ],
)
def test_a_target_that_is_a_file_stands_beside_the_sweep(tmp_path, told, meant):
    text = SMALL.replace('target = "host"', f'target = "{told}"')
    assert load_config(write(tmp_path, text)).target == meant.format(tmp_path)


def test_the_paths_of_what_is_written_are_short(tmp_path):
    text = SMALL.replace("[sweep]", '[sweep]\noutput = "../runs/x"\nrecords = "../r.sqlite"')
    config = load_config(write(tmp_path, text))
    assert config.output == str(tmp_path.parent / "runs/x")
    assert config.records == str(tmp_path.parent / "r.sqlite")


def test_tables_are_a_fixed_point(tmp_path):
    config = load_config(write(tmp_path))
    assert config.from_tables(config.tables(), tmp_path / "elsewhere") == config


@pytest.mark.parametrize(
    ("old", "new", "what", "hint"),
    [
        ("target =", "targte =", "targte", "'target'"),
        ('metric = "mrr"', 'metrik = "mrr"', "metrik", "'metric'"),
        ("[goal]", "[goals]", "goals", "'goal'"),
        ('target = "host"', "target = 3", "target", "a text"),
        ('target = "host"', "", "'target'", "add target"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_loss = 2', "max_loss", "0 to 1"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_loss = nan', "max_loss", "finite"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_latency_ms = true', "max_latency_ms", "number"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_size_mb = 0', "max_size_mb", "more than 0"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_size_mb = "9"', "max_size_mb", "number"),
        ('metric = "mrr"', 'metric = "mrr"\nsize = 3', "goal.size", "true or false"),
        ('metric = "mrr"', 'metric = "mrr"\nmax_size = 3', "max_size", "'max_size_mb'"),
        ('target = "host"', 'target = "host"\nthreads = 0', "threads", "more than 0"),
        ('target = "host"', 'target = "host"\nthreads = 1.5', "threads", "whole number"),
        ('target = "host"', 'target = "host"\npasses = ["fnn"]', "fnn", "'ffn'"),
        ('target = "host"', 'target = "host"\npasses = "ffn"', "passes", "list"),
        ("task.py:evaluate", "task.evaluate", "quality", "file.py:function"),
        ("[goal]", "[dims]\nbatch = 0\n[goal]", "dims.batch", "more than 0"),
        ('target = "host"', "target = host", "not TOML", "quotes"),
    ],
)
def test_a_wrong_file_names_key_and_remedy(tmp_path, old, new, what, hint):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, SMALL.replace(old, new)))
    assert what in caught.value.what
    assert hint in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read the sweep file"):
        load_config(tmp_path / "none.toml")


def test_flags_override_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    config = load_config(write(tmp_path / "sub"))
    changed = override(
        config, threads=2, max_loss=0.02, minutes=3.0, output=tmp_path.joinpath("o"), target=None
    )
    assert (changed.threads, changed.goal.max_loss, changed.budget.minutes) == (2, 0.02, 3.0)
    assert changed.output == str(tmp_path / "o")
    assert (changed.target, changed.model) == (config.target, config.model)
    with pytest.raises(UserError, match="threads"):
        override(config, threads=-1)
