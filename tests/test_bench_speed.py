"""`bench speed`: rows that hold together, that are not measured twice, and one sentence for what cannot be."""

import dataclasses

import pytest
import torch

from cplmix_ray.benchmarks.results import read_rows
from cplmix_ray.benchmarks.speed import distributed as spread
from cplmix_ray.benchmarks.speed import machine, measure
from cplmix_ray.benchmarks.speed.case import COLUMNS, MEASURED, Case, cases_of, key_of
from cplmix_ray.benchmarks.speed.compare import quartiles
from cplmix_ray.benchmarks.speed.machine import PeakMemory, emulates_16_bits, matmul_peak
from cplmix_ray.benchmarks.speed.memory import memory_of
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.cli.bench_command import bench
from cplmix_ray.utils.errors import InputError, TrainingError

TINY = Shape(cells=32, genes=40, n_categories=5, hidden=(12, 12))
LINE = ["speed", "--cells", "32", "--genes", "40", "--n-categories", "5", "--hidden", "12", "12", "--rounds", "2"]


@pytest.fixture
def quick(monkeypatch):
    """Without the parts that take seconds: processes for memory, and products of large matrices."""
    monkeypatch.setattr(measure, "memory_of", lambda side, *_: {"ours": 3_000_000, "plain": None}[side])
    monkeypatch.setitem(machine._SIDES, "cpu", (64,))


def test_a_row_holds_together(quick, tmp_path, capsys):
    rows_file = tmp_path / "new" / "speed.csv"
    bench([*LINE, "--density", "1", "0.1", "--n-arms", "1", "2", "--out", str(rows_file)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"4 cases, 0 of them have a row in {rows_file}."
    assert said[-1] == f"Rows are in {rows_file}."
    assert any("genes 40" in line and "engine local" in line for line in said), "what all have in common is told once"
    rows = read_rows(rows_file, COLUMNS)
    assert [(row["n_arms"], row["density"]) for row in rows] == [("1", "1"), ("1", "0.1"), ("2", "1"), ("2", "0.1")]
    for row in rows:
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
    assert f"1 cases, 1 of them have a row in {rows_file}." in capsys.readouterr().out
    with open(rows_file, "a") as file:
        file.write("0.1.0,local,cp")  # what a killed process leaves
    bench([*LINE, "--dropout", "0.5", "0.25", "--out", str(rows_file)])
    assert rows_file.read_bytes().startswith(before)
    assert [row["dropout"] for row in read_rows(rows_file, COLUMNS)] == ["0.5", "0.25"]


def test_an_interrupted_measurement_keeps_its_rows(quick, tmp_path, monkeypatch):
    compare, calls = measure.compare, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compare(*args)

    monkeypatch.setattr(measure, "compare", interrupted)
    with pytest.raises(TrainingError, match=r"interrupted; the same command goes on, rows are in .*speed\.csv"):
        bench([*LINE, "--n-arms", "1", "2", "3", "--out", str(tmp_path)])
    assert [row["n_arms"] for row in read_rows(tmp_path / "speed.csv", COLUMNS)] == ["1"]
    assert torch.get_num_threads() == 1


def test_the_number_of_threads_is_the_cases_and_is_put_back(quick, tmp_path, monkeypatch):
    compare, seen = measure.compare, []
    monkeypatch.setattr(measure, "compare", lambda *args: seen.append(torch.get_num_threads()) or compare(*args))
    bench([*LINE, "--threads", "1", "2", "--out", str(tmp_path)])
    assert seen == [1, 2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("slower", [None, 40.0])
def test_emulated_arithmetic_is_told_of_before_it_runs(quick, slower, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "emulates_16_bits", lambda device: slower)
    bench([*LINE, "--precision", "bfloat16", "--out", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    told = [line for line in said if "16-bit" in line]
    assert (told == []) if slower is None else ("40 times as long" in told[0] and said.index(told[0]) == 1)


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
        (["--cells", "1"], r"--cells 1 must be 2 or more"),
        (["--genes", "10", "0"], r"--genes 0 must be 1 or more"),
        (["--hidden", "8", "0"], r"--hidden 0 must be 1 or more"),
        (["--n-arms", "0"], r"--n-arms 0 must be 1 or more"),
        (["--threads", "0"], r"--threads 0 must be 1 or more"),
        (["--rounds", "0"], r"--rounds 0 must be 1 or more"),
        (["--density", "0"], r"--density 0 must be above 0 and at most 1"),
        (["--density", "1.5"], r"--density 1\.5 must be above 0"),
        (["--dropout", "1"], r"--dropout 1 must be at least 0 and below 1"),
        (["--precision", "float16"], r"see python -m cplmix_ray\.bench --help"),
        (["--engine", "cloud"], r"see python -m cplmix_ray\.bench --help"),
        (["--cells", "many"], r"see python -m cplmix_ray\.bench --help"),
        (["--out", "other.csv"], r"other\.csv holds no rows of this version's benchmark"),
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
    with pytest.raises(InputError, match=r"this machine has no GPU"):
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
    (row,) = read_rows(tmp_path / "speed.csv", COLUMNS)
    assert key_of(row) == case.key
    assert measure.without_row([case, dataclasses.replace(case, threads=2)], tmp_path / "speed.csv") == [
        dataclasses.replace(case, threads=2)
    ]


def test_quartiles_of_known_numbers():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


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
    ours, plain = (memory_of(side, shape, "cpu", 1) for side in ("ours", "plain"))
    assert 1e6 < ours < 0.7 * plain
    assert plain > 4 * 4 * 1000 * 2000


def test_a_process_that_dies_is_one_sentence(monkeypatch):
    with pytest.raises(TrainingError, match="process that measured memory died"):
        memory_of("ours", TINY, "no such device", 1)


@pytest.mark.slow
def test_arms_on_actors_are_compared_with_one_arm_on_one(ray_cluster, monkeypatch):
    monkeypatch.setattr(spread, "STEPS", 3)
    monkeypatch.setitem(machine._SIDES, "cpu", (64,))
    found = spread.measure_spread(Case(TINY, engine="ray", device="cpu", rounds=1))
    assert (found.workers, found.packed) == (2, 1)
    assert found.sent == 4 * (TINY.cells * TINY.n_categories + 1)
    assert 0 <= found.waited < found.step
    assert found.times_alone == pytest.approx(found.step / found.alone)
    assert found.first > 0
