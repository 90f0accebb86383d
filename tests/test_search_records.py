"""What a search goes on from: records of its trials in plain text, whole, damaged, or made to do harm."""

import errno
import json
import math
import os
import re
import shutil
from dataclasses import replace

import pytest

from cplmix_ray.config.search import SearchConfig
from cplmix_ray.distributed.plan import Devices
from cplmix_ray.tuning.records import TrialState, add_checksum, append_record, read_reports, write_record
from cplmix_ray.tuning.results_table import ResultsTable, write_hparams
from cplmix_ray.tuning.resume import read_search_state, read_trial
from cplmix_ray.tuning.runner import state_of
from cplmix_ray.tuning.schedulers import make_scheduler
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.tuning.searchers import draw_points, make_searcher
from cplmix_ray.utils.errors import DiskError, InputError, TrainingError

LAM = {"objective.lam": {"loguniform": [0.1, 10]}}


def spec_of(space: dict, **search) -> SearchConfig:
    return SearchConfig.model_validate({"space": space, "search": search})


def report_of(step: int, score: float, complete: bool = False) -> dict:
    return {"step": step, "score": score, "scores": "0.5", "score_sd": None, "complete": complete, "done": complete}


def keep(folder: SearchFolder, name: str, status: str, point: dict, *reports: dict, seeds=(0,)) -> None:
    """A trial as a search leaves it."""
    write_record(folder.trial(name), TrialState(name, status, point))
    for report in reports:
        append_record(folder.trial(name).reports, report)
    for seed in seeds if reports and reports[-1]["complete"] else ():
        run = folder.trial(name).run(seed)
        run.path.mkdir()
        run.write_metrics({"acc": reports[-1]["score"], "seconds": 1.0})


def setup_of(spec: SearchConfig, folder: SearchFolder, n_steps: int = 100) -> SearchSetup:
    return SearchSetup(spec, "acc", Devices(0, 1, "here"), n_steps, folder)


def rest_now(spec: SearchConfig, folder: SearchFolder):
    said = []
    return read_search_state(setup_of(spec, folder), said.append), said


# What is left of a search


def test_an_interrupted_search_has_the_points_of_a_whole_one(tmp_path):
    spec = spec_of({"model.n_arms": {"grid": [1, 2]}, **LAM}, trials=3)
    folder = SearchFolder(tmp_path)
    whole, _ = rest_now(spec, folder)
    assert [name for name, _ in whole.trials] == [f"{number:04d}" for number in range(6)]
    assert len({point["objective.lam"] for _, point in whole.trials}) == 6
    keep(folder, "0001", "running", whole.trials[1][1], report_of(5, 0.5, complete=True))
    keep(folder, "0002", "stopped", whole.trials[2][1], report_of(2, 0.1))
    keep(folder, "0004", "running", whole.trials[4][1], report_of(2, 0.4))
    rest, said = rest_now(spec, folder)
    assert rest.trials == [whole.trials[number] for number in (0, 3, 4, 5)]
    assert {h.name: h.status for h in rest.history} == {
        "0001": "done",
        "0002": "stopped",
        "0004": "unfinished",
    }
    assert (rest.n_more, said) == (0, [])


def test_only_a_failure_that_would_repeat_ends_a_trial(tmp_path):
    spec, folder = spec_of(LAM, trials=2), SearchFolder(tmp_path)
    points = draw_points(spec.space, 2, 0)
    for name, point, repeats in (("0000", points[0], True), ("0001", points[1], False)):
        keep(folder, name, "failed", point)
        folder.trial(name).failure.write_text(json.dumps({"reason": "No.", "repeats": repeats}))
    rest, _ = rest_now(spec, folder)
    assert [(h.status, h.error) for h in rest.history] == [("failed", "No."), ("unfinished", "")]
    assert rest.trials == [("0001", points[1])]


def test_a_trial_counts_as_done_only_with_all_its_runs(tmp_path):
    spec, folder = spec_of(LAM, trials=1, seeds=2), SearchFolder(tmp_path)
    (point,) = draw_points(spec.space, 1, 0)
    keep(folder, "0000", "done", point, report_of(9, 0.5, complete=True), seeds=(0, 1))
    assert rest_now(spec, folder)[0].trials == []
    folder.trial("0000").run(1).metrics.write_text('{"acc": 0.5, "sec')
    rest, _ = rest_now(spec, folder)
    assert rest.trials == [("0000", point)] and rest.history[0].report["score"] == 0.5


def test_the_folder_of_an_older_version_gets_a_sentence(tmp_path):
    (tmp_path / "tune").mkdir()
    (tmp_path / "trials" / "0000" / "seed-0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"version of cplmix_ray.*--out") as caught:
        rest_now(spec_of(LAM), SearchFolder(tmp_path))
    assert "\n" not in str(caught.value)


# Damage


def test_a_report_that_a_kill_cut_short_is_left_out_and_the_next_one_is_whole(tmp_path):
    trial = SearchFolder(tmp_path).trial("0000")
    for step in (4, 8, 12):
        append_record(trial.reports, report_of(step, 0.5))
    whole = trial.reports.read_bytes()
    for cut in range(1, len(whole)):
        trial.reports.write_bytes(whole[:cut])
        steps = [report["step"] for report in read_reports(trial)[0]]
        assert steps == [4, 8, 12][: len(steps)] and len(steps) >= whole[:cut].count(b"\n")
        append_record(trial.reports, report_of(16, 0.75))
        assert [report["step"] for report in read_reports(trial)[0]] == [*steps, 16]
    trial.reports.write_bytes(whole[:-9])
    (wrong,) = read_reports(trial)[1]
    assert str(trial.reports) in wrong and re.search(r"\b1\b", wrong)


def test_a_trial_that_went_back_has_its_later_reports_replaced(tmp_path):
    trial = SearchFolder(tmp_path).trial("0000")
    for step, score in ((4, 0.1), (8, 0.2), (12, 0.3), (8, 0.4)):
        append_record(trial.reports, report_of(step, score))
    assert [(report["step"], report["score"]) for report in read_reports(trial)[0]] == [(4, 0.1), (8, 0.4)]


@pytest.mark.parametrize("kind", ["flipped", "cut"])
@pytest.mark.parametrize("name", ["trial.json", "reports.jsonl", "failure.json", "seed-0/metrics.json"])
def test_no_damage_to_a_record_is_more_than_a_line_and_a_trial_that_goes_on(tmp_path, name, kind):
    spec, folder = spec_of(LAM, trials=1), SearchFolder(tmp_path)
    (point,) = draw_points(spec.space, 1, 0)
    keep(folder, "0000", "done", point, report_of(4, 0.5), report_of(9, 0.5, complete=True))
    trial = folder.trial("0000")
    trial.failure.write_text(json.dumps({"reason": "No.", "repeats": False}))
    path, reports = trial.path / name, read_reports(trial)[0]
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] if kind == "cut" else whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        rest, said = rest_now(spec, folder)
        (state,) = rest.history
        assert state.status in ("done", "unfinished")
        assert all("\n" not in line and line.startswith(str(trial.path)) for line in said)
        assert state.point == point
        if path == trial.reports and not said:
            assert state.earlier == reports[: len(state.earlier)], "a figure with another digit was believed"
    path.write_bytes(whole)
    assert rest_now(spec, folder)[0].history[0].status == "done"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b'"trial"',
        b"\xff\xfe\x00",
        b"\x80\x04\x95.",
        b'{"format": 2, "point": {"objective.lam": 1.0}, "status": "done"}',
        b'{"format": 1, "point": {"objective.lam": -1.0}, "status": "done"}',
        b'{"format": 1, "point": {"objective.lam": {"deep": [1]}}, "status": "done"}',
        b'{"format": 1, "point": {"input.data": "/etc/passwd"}, "status": "done"}',
        b'{"format": 1, "point": {"objective.lam": 1.0}, "status": "won"}',
        b'{"step": -1, "score": 1}',
        b'{"step": 1, "score": "1"}',
        b'{"step": 1, "score": 1, "acc": [1, 2]}',
        b'{"reason": 1, "repeats": "maybe"}',
    ],
)
@pytest.mark.parametrize("name", ["trial.json", "reports.jsonl", "failure.json", "seed-0/metrics.json"])
def test_records_that_hold_anything_else_are_passed_over(tmp_path, name, text):
    spec, folder = spec_of(LAM, trials=1), SearchFolder(tmp_path)
    (point,) = draw_points(spec.space, 1, 0)
    keep(folder, "0000", "running", point, report_of(9, 0.5, complete=True))
    if text.startswith(b'{"') and text.endswith(b"}"):
        text = json.dumps(add_checksum(json.loads(text))).encode()
    (folder.trial("0000").path / name).write_bytes(text)
    rest, said = rest_now(spec, folder)
    assert rest.history[0].point == point
    assert rest.history[0].status == ("done" if name in ("trial.json", "failure.json") else "unfinished")
    assert bool(said) == (name in ("trial.json", "reports.jsonl"))


def test_a_drawn_trial_whose_point_is_lost_is_said_and_left(tmp_path):
    """Optuna's points follow from no seed."""
    pytest.importorskip("optuna")
    spec, folder = spec_of(LAM, trials=2, searcher="optuna"), SearchFolder(tmp_path)
    keep(folder, "0000", "running", {"objective.lam": 2.0}, report_of(4, 0.5))
    keep(folder, "0001", "running", {"objective.lam": 3.0}, report_of(4, 0.5))
    folder.trial("0001").record.write_text("{")
    rest, (said,) = rest_now(spec, folder)
    assert "trial.json" in said and "0001" in said
    assert (rest.trials, rest.n_more) == ([("0000", {"objective.lam": 2.0})], 1)
    assert folder.next_trial() == "0002"


def test_a_report_that_cannot_be_written_is_no_lasting_failure(tmp_path):
    trial = SearchFolder(tmp_path).trial("0000")
    trial.reports.mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"Cannot write .*reports\.jsonl"):
        append_record(trial.reports, report_of(1, 0.5))


def test_rows_that_the_disk_refuses_are_written_later_and_the_last_ones_must_be(tmp_path):
    folder, said, shown = SearchFolder(tmp_path), [], []
    table = ResultsTable(folder, ["objective.lam"], shown.append, say=said.append)
    first = TrialState("0000", "running", {"objective.lam": 1.0}, report_of(4, 0.5))
    table.update([first])
    before = folder.results.read_text()
    folder.results.unlink()
    folder.results.mkdir()
    (folder.results / "in the way").touch()
    done = [replace(first, status="done"), replace(first, name="0001", status="waiting", report={})]
    for _ in range(3):
        table.update(done)
    assert (
        len(said) == 1
        and "results.csv" in said[0]
        and said[0].endswith("The search goes on, and writes it when it can.")
    )
    with pytest.raises(InputError, match=r"results\.csv"):
        table.close(done)
    shutil.rmtree(folder.results)
    table.update(done)
    assert len(said) == 2 and len(shown) == 5
    rows = folder.results.read_text().splitlines()
    assert (
        rows[0] == before.splitlines()[0]
        and rows[1].startswith("0000,done,1.0,0.5")
        and rows[2].startswith("0001,waiting")
    )
    assert read_trial(setup_of(spec_of(LAM, trials=2), folder), "0000", None)[0].point == {"objective.lam": 1.0}


def test_a_page_of_settings_gives_way_to_the_next_only_when_that_is_written(tmp_path):
    state = TrialState("0000", "stopped", {"objective.lam": 1.0}, report_of(4, 0.5))
    write_hparams(tmp_path, state)
    (old,) = tmp_path.iterdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", no_room)
        with pytest.raises(DiskError, match="TensorBoard"):
            write_hparams(tmp_path, replace(state, status="done"))
    assert list(tmp_path.iterdir()) == [old]
    write_hparams(tmp_path, replace(state, status="done"))
    (new,) = tmp_path.iterdir()
    assert new != old


def no_room(*args):
    raise OSError(errno.ENOSPC, "")


# What a new scheduler and a new searcher know


def search_of(spec: SearchConfig, history: list[TrialState], path) -> tuple[SearchSetup, SearchState]:
    """A search in a folder whose next trial is 0100."""
    (path / "trials" / "0099").mkdir(parents=True)
    going_on = [(state.name, state.point) for state in history if not state.ended]
    state = SearchState(going_on, spec.n_trials() - len(history), history)
    return setup_of(spec, SearchFolder(path)), state


def state_with(name: str, status: str, lam: float, *reports: dict) -> TrialState:
    return TrialState(name, status, {"objective.lam": lam}, reports[-1] if reports else {}, earlier=reports)


class Newcomer:
    """What successive halving looks at of a trial."""

    def __init__(self, name: str):
        self.name = self.trial_id = name

    def __str__(self) -> str:
        return self.name


@pytest.mark.parametrize("known", [True, False], ids=["with", "without"])
def test_halving_counts_what_trials_have_reported_before(tmp_path, known):
    spec = spec_of(LAM, trials=9, scheduler="asha", grace_steps=10, reduction=2.0)
    before = [
        state_with("0000", "done", 1.0, report_of(10, 0.8), report_of(100, 0.9, complete=True)),
        state_with("0001", "stopped", 2.0, report_of(10, 0.7)),
        state_with("0002", "unfinished", 3.0, report_of(10, 0.9), report_of(20, 0.9)),
    ]
    scheduler = make_scheduler(*search_of(spec, before if known else [], tmp_path), print)
    going_on, newcomer = Newcomer("0002"), Newcomer("0003")
    for trial in (going_on, newcomer):
        scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, newcomer, report_of(10, 0.1)) == ("STOP" if known else "CONTINUE")
    # Its own earlier reports are not counted twice, and it is not judged at their steps again.
    assert scheduler.on_trial_result(None, going_on, report_of(20, 0.0)) == "CONTINUE"


class Told(Newcomer):
    """What is looked at of a trial to say how it stands."""

    status = "TERMINATED"
    config = {"trial": {"point": {"objective.lam": 1.0}}}  # noqa: RUF012

    def __init__(self, **report):
        super().__init__("0001")
        self.last_result = {"trial_id": "x", "date": "today", **report}


@pytest.mark.parametrize(
    ("report", "status", "error", "figures"),
    [
        ({}, "unfinished", "", False),
        ({"step": 4, "score": 0.5}, "unfinished", "", True),
        ({"step": 4, "score": 0.5, "done": True}, "stopped", "", True),
        ({"step": 9, "score": 0.5, "done": True, "complete": True}, "done", "", True),
        ({"failed": "No.", "done": True}, "failed", "No.", False),
    ],
)
def test_how_a_trial_stands_is_told_by_its_last_report(report, status, error, figures):
    """Before the first report, and of a failure, there are no figures, and those of an earlier process stay."""
    state = state_of(Told(**report))
    assert (state.status, state.error, bool(state.report)) == (status, error, figures)


def test_optuna_learns_from_ended_trials_hands_out_the_others_and_repeats_no_draw(tmp_path):
    pytest.importorskip("optuna")
    spec = spec_of(LAM, trials=6, searcher="optuna")
    first, _ = make_searcher(*search_of(spec, [], tmp_path))
    drawn = [first.suggest(f"t{number}")["trial"] for number in range(3)]
    assert [each["name"] for each in drawn] == ["0100", "0101", "0102"]
    lams = [each["point"]["objective.lam"] for each in drawn]
    before = [
        state_with("0000", "done", lams[0], report_of(100, 0.5, complete=True)),
        state_with("0001", "failed", lams[1]),
        state_with("0002", "unfinished", lams[2], report_of(10, 0.5)),
    ]
    resumed, _ = make_searcher(*search_of(spec, before, tmp_path / "resumed"))
    told = resumed.optuna._ot_study.get_trials()
    assert sorted((trial.state.name, trial.value or 0.0) for trial in told) == [
        ("COMPLETE", 0.5),
        ("FAIL", 0.0),
        ("WAITING", 0.0),
    ]
    goes_on = resumed.suggest("u0")["trial"]
    assert (goes_on["name"], goes_on["point"]) == ("0002", {"objective.lam": lams[2]})
    new = [resumed.suggest(f"u{number}")["trial"] for number in (1, 2)]
    assert [each["name"] for each in new] == ["0100", "0101"]
    resumed.on_trial_complete("u1", {"failed": "No.", "done": True})
    assert [trial.state.name for trial in resumed.optuna._ot_study.get_trials()].count("FAIL") == 2
    assert not any(math.isclose(each["point"]["objective.lam"], lam) for each in new for lam in lams)


def test_a_history_without_any_record_is_the_drawn_point(tmp_path):
    spec = spec_of(LAM, trials=1)
    (tmp_path / "trials" / "0000").mkdir(parents=True)
    state, wrong = read_trial(setup_of(spec, SearchFolder(tmp_path)), "0000", {"objective.lam": 1.0})
    assert (state.status, state.point, wrong) == ("unfinished", {"objective.lam": 1.0}, [])
