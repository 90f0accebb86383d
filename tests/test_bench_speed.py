"""`bench speed`: rows that hold together, that are not measured twice, and one sentence for what cannot be."""

import dataclasses
import re

import pytest
import torch

from cplmix_ray.benchmarks.results import keys_of, read_rows
from cplmix_ray.benchmarks.speed import machine, measure
from cplmix_ray.benchmarks.speed.case import COLUMNS, KEY, MEASURED, Case, Shape, cases_of
from cplmix_ray.benchmarks.speed.machine import PeakMemory, emulates_16_bits, matmul_peak, step_memory
from cplmix_ray.cli.bench_command import bench
from cplmix_ray.utils.errors import InputError, TrainingError

TINY = Shape(cells=32, genes=40, n_categories=5, hidden=(12, 12))
LINE = ["speed", "--cells", "32", "--genes", "40", "--n-categories", "5", "--hidden", "12", "12", "--rounds", "2"]


@pytest.fixture
def quick(monkeypatch):
    """Without the parts that take seconds: processes for memory, and products of large matrices."""
    monkeypatch.setattr(measure, "step_memory", lambda name, *_: {"package": 3_000_000, "plain": None}[name])
    monkeypatch.setitem(machine._SIDES, "cpu", (64,))


def test_a_row_holds_together(quick, tmp_path, capsys):
    rows_file = tmp_path / "new" / "speed.csv"
    bench([*LINE, "--density", "1", "0.1", "--n-arms", "1", "2", "--out", str(rows_file)])
    said = capsys.readouterr().out.splitlines()
    assert re.search(rf"\b4 cases\b.*\b0\b.*{re.escape(str(rows_file))}", said[0])
    assert str(rows_file) in said[-1]
    assert any("genes 40" in line and "engine local" in line for line in said), "what all have in common is told once"
    rows = read_rows(rows_file, COLUMNS)
    arms_and_density = [["1", "1"], ["1", "0.1"], ["2", "1"], ["2", "0.1"]]
    assert rows[["n_arms", "density"]].to_numpy().tolist() == arms_and_density
    for _, row in rows.iterrows():
        figure = {name: float(row[name]) for name in MEASURED if row[name] and name != "chip"}
        shape = dataclasses.replace(TINY, n_arms=int(row["n_arms"]), density=float(row["density"]))
        seconds = figure["step_ms"] / 1000
        assert figure["cells_per_s"] == pytest.approx(32 / seconds, rel=1e-4)
        assert figure["needed_gflop"] == pytest.approx(shape.needed_flop() / 1e9, rel=1e-4)
        assert figure["gflops"] == pytest.approx(shape.needed_flop() / 1e9 / seconds, rel=1e-4)
        assert figure["of_peak"] == pytest.approx(figure["gflops"] / figure["peak_gflops"], rel=1e-4)
        assert figure["plain_gflops"] == pytest.approx(shape.plain_flop() / 1e6 / figure["plain_ms"], rel=1e-4)
        assert 0 < figure["times_as_fast_low"] <= figure["times_as_fast"] <= figure["times_as_fast_high"]
        assert (row["memory_mb"], row["plain_memory_mb"], row["sent_bytes"], row["workers"]) == ("3", "", "0", "1")
        assert row["wait_ms"] == row["times_alone"] == ""
        assert row["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def test_what_has_a_row_is_not_measured_again(quick, tmp_path, capsys):
    bench([*LINE, "--out", str(tmp_path)])
    rows_file = tmp_path / "speed.csv"
    before = rows_file.read_bytes()
    bench([*LINE, "--out", str(rows_file)])
    assert rows_file.read_bytes() == before
    assert re.search(rf"\b1 cases\b.*\b1\b.*{re.escape(str(rows_file))}", capsys.readouterr().out)
    with open(rows_file, "a") as file:
        file.write("0.1.0,local,cp")  # what a killed process leaves
    bench([*LINE, "--dropout", "0.5", "0.25", "--out", str(rows_file)])
    assert rows_file.read_bytes().startswith(before)
    assert read_rows(rows_file, COLUMNS)["dropout"].tolist() == ["0.5", "0.25"]


def test_an_interrupted_measurement_keeps_its_rows(quick, tmp_path, monkeypatch):
    compare, calls = measure.measure_local, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compare(*args)

    monkeypatch.setattr(measure, "measure_local", interrupted)
    with pytest.raises(TrainingError, match=r"interrupted; repeat the command to continue\. Rows are in .*speed\.csv"):
        bench([*LINE, "--n-arms", "1", "2", "3", "--out", str(tmp_path)])
    assert read_rows(tmp_path / "speed.csv", COLUMNS)["n_arms"].tolist() == ["1"]
    assert torch.get_num_threads() == 1


def test_the_number_of_threads_is_the_cases_and_is_put_back(quick, tmp_path, monkeypatch):
    time_local, seen = measure.measure_local, []

    def on_one_thread(*args):  # two threads wait for each other where other processes have the cores
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)
        try:
            return time_local(*args)
        finally:
            torch.set_num_threads(seen[-1])

    monkeypatch.setattr(measure, "measure_local", on_one_thread)
    bench([*LINE, "--threads", "1", "2", "--out", str(tmp_path)])
    assert seen == [1, 2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("slower", [None, 40.0])
def test_emulated_arithmetic_is_told_of_before_it_runs(quick, slower, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "emulates_16_bits", lambda device: slower)
    bench([*LINE, "--precision", "bfloat16", "--out", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    told = [line for line in said if "16-bit" in line]
    assert (told == []) if slower is None else ("40 times" in told[0] and said.index(told[0]) == 1)


def test_whether_arithmetic_is_emulated_is_measured(monkeypatch):
    seconds = {torch.bfloat16: 0.5, torch.float32: 0.1}
    monkeypatch.setattr(machine, "_product_seconds", lambda side, device, dtype: seconds[dtype])
    emulates_16_bits.cache_clear()
    assert emulates_16_bits(torch.device("cpu")) == pytest.approx(5.0)
    emulates_16_bits.cache_clear()
    seconds[torch.bfloat16] = 0.06
    assert emulates_16_bits(torch.device("cpu")) is None
    emulates_16_bits.cache_clear()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cells", "1"], r"--cells 1\b.*\b2\b"),
        (["--genes", "10", "0"], r"--genes 0\b.*\b1\b"),
        (["--hidden", "8", "0"], r"--hidden 0\b.*\b1\b"),
        (["--n-arms", "0"], r"--n-arms 0\b.*\b1\b"),
        (["--threads", "0"], r"--threads 0\b.*\b1\b"),
        (["--rounds", "0"], r"--rounds 0\b.*\b1\b"),
        (["--density", "0"], r"--density 0\b.*\b0\b.*\b1\b"),
        (["--density", "1.5"], r"--density 1\.5\b.*\b0\b.*\b1\b"),
        (["--dropout", "1"], r"--dropout 1\b.*\b0\b.*\b1\b"),
        (["--precision", "float16"], r"float16.* python -m cplmix_ray\.bench --help"),
        (["--engine", "cloud"], r"cloud.* python -m cplmix_ray\.bench --help"),
        (["--cells", "many"], r"many.* python -m cplmix_ray\.bench --help"),
        (["--out", "other.csv"], r"other\.csv"),
    ],
)
def test_a_line_that_cannot_be_used_is_one_sentence_and_leaves_nothing(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("data,acc\ndigits,0.5\n")
    with pytest.raises(InputError, match=sentence) as caught:
        bench([*LINE, *words])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="GPU"):
        bench([*LINE, "--device", "cuda", "--out", str(tmp_path)])


def test_an_option_with_several_values_makes_all_combinations():
    over = {"n_arms": [1, 2], "threads": [1, 2], "engine": ["local", "ray"]}
    cases = list(cases_of(Case(TINY, rounds=3), over))
    assert len({case.key for case in cases}) == len(cases) == 8
    assert {(case.shape.n_arms, case.threads, case.engine, case.rounds) for case in cases} == {
        (a, t, e, 3) for a in (1, 2) for t in (1, 2) for e in ("local", "ray")
    }


def test_a_row_has_the_key_of_its_case(quick, tmp_path):
    case = Case(dataclasses.replace(TINY, density=0.123456789, dropout=0.1), device="cpu", rounds=1)
    measure.measure_all([case], tmp_path / "speed.csv", lambda *_: None)
    assert keys_of(read_rows(tmp_path / "speed.csv", COLUMNS), KEY) == [case.key]
    assert measure.pending_cases([case, dataclasses.replace(case, threads=2)], tmp_path / "speed.csv") == [
        dataclasses.replace(case, threads=2)
    ]


def test_a_peak_is_a_speed(quick):
    assert matmul_peak(torch.device("cpu")) > 0.01


@pytest.mark.slow
@pytest.mark.skipif(not PeakMemory(torch.device("cpu")).before, reason="the system does not tell")
def test_memory_is_counted_at_its_peak_and_in_a_process_of_its_own():
    """Eight megabytes a tensor of all values, of which the plain step makes several and the package's none."""
    watch = PeakMemory(torch.device("cpu"))
    held = torch.ones(16 << 20)
    del held
    assert 60e6 < watch.taken() < 90e6
    shape = Shape(cells=1000, genes=2000, n_categories=5, hidden=(16, 16), n_arms=2)
    package, plain = (step_memory(name, shape, "cpu", 1) for name in ("package", "plain"))
    assert 1e6 < package < 0.7 * plain
    assert plain > 4 * 4 * 1000 * 2000


def test_a_process_that_dies_is_one_sentence(monkeypatch):
    with pytest.raises(TrainingError, match="process that measured memory died"):
        step_memory("package", TINY, "no such device", 1)


@pytest.mark.slow
def test_arms_on_actors_are_compared_with_one_arm_on_one(ray_cluster, monkeypatch):
    arms_of_worker = []
    monkeypatch.setattr(measure, "RAY_STEPS", 3)
    monkeypatch.setattr(measure, "step_memory", lambda name, shape, *_: arms_of_worker.append(shape.n_arms))
    monkeypatch.setitem(machine._SIDES, "cpu", (64,))
    found = measure.measure_ray(Case(TINY, engine="ray", device="cpu", rounds=1))
    assert (found["workers"], arms_of_worker) == (2, [1])
    assert found["sent_bytes"] == 4 * (TINY.cells * TINY.n_categories + 1)
    assert 0 <= found["wait_ms"] < found["step_ms"]
    assert found["times_alone"] == pytest.approx(found["step_ms"] / found["alone_ms"])
    assert found["first_step_ms"] > 0
