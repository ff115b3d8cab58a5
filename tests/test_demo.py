"""The command line: the demo does what it says it does, info and bench answer in sentences."""

import json
import struct

import jax
import numpy as np
import pytest

from odekit import samplers
from odekit.__main__ import main
from odekit.demo import QUICK, Sizes, hand_made, print_table
from odekit.io import load
from odekit.learn import normal_form
from odekit.schedules import FlowMatching


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the quick demo once; return its folder and what it printed."""
    import contextlib
    import io

    folder, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["demo", "--quick", "--out", str(folder)]) == 0
    return folder, out.getvalue()


def test_the_demo_learns_tables_that_beat_the_others(shown):
    numbers = json.loads((shown[0] / "numbers.json").read_text())
    assert numbers["budgets"] == list(QUICK.budgets)
    *others, learned = numbers["rmse"].values()
    for *column, value in zip(*others, learned, strict=True):
        assert value < 0.7 * min(column)
    assert numbers["rmse"]["Euler"][0] > numbers["rmse"]["Euler"][-1]


def test_the_demo_says_what_it_wrote(shown):
    folder, text = shown
    written = {path.name for path in folder.iterdir()}
    assert written == {"digits_4.safetensors", "digits_6.safetensors", "numbers.json", "figure.png"}
    for name in written:
        assert str(folder / name) in text
    assert "[4/4]" in text
    assert "learned is better by" in text
    assert "The loaded tables equal the saved ones to the bit." in text


def test_the_saved_tables_load_into_their_normal_form(shown):
    flow = FlowMatching()
    start = normal_form(samplers.euler(flow, samplers.time_grid(flow, 4)))
    like = jax.tree.map(lambda leaf: leaf.astype(np.float32), start)
    like = type(like)(like.t, like.states, like.evals, None, like.t_state, "velocity", "learned")
    table = load(shown[0] / "digits_4.safetensors", {"table": like, "schedule": flow})["table"]
    assert table.nfe == 4
    assert np.all(np.diff(np.asarray(table.t)) < 0)


def test_the_figure_is_a_large_image(shown):
    head = (shown[0] / "figure.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width > 1200
    assert height > 1000


@pytest.mark.parametrize("n", Sizes().budgets)
def test_every_hand_made_table_spends_the_whole_budget_and_no_more(n):
    assert {name: table.nfe for name, table in hand_made(FlowMatching(), n).items()} == dict.fromkeys(
        ["Euler", "Heun", "DPM-Solver++ 2M", "Adams 2", "Adams 3"], n
    )


def test_the_best_of_each_column_is_marked():
    lines = []
    print_table("Error", [4, 6], {"a": [0.2, 0.1], "b": [0.1, 0.3]}, lines.append)
    assert lines[-2].split() == ["a", "0.2000", "0.1000*"]
    assert lines[-1].split() == ["b", "0.1000*", "0.3000"]


def test_info_prints_versions_devices_and_precision(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("odekit", f"jax        {jax.__version__}", "devices", "cpu", "precision  float64"):
        assert word in text.lower()


def test_bench_runs_the_files_it_finds_or_says_why_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 2
    assert "run it from a checkout" in capsys.readouterr().err
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "harness.py").write_text("raise RuntimeError('no benchmark')")
    (tmp_path / "benchmarks" / "speed.py").write_text("import sys; print('measured', sys.argv[1:])")
    assert main(["bench", "speed", "--quick"]) == 0
    assert main(["bench"]) == 0
    assert capsys.readouterr().out.count("measured") == 2
    assert main(["bench", "sped"]) == 2
    assert "`NAME` is 'sped'; there are speed." in capsys.readouterr().err
