"""Exchanges of population based training: when they are made, what they draw, and what a trial finds after one."""

import json
import random

import numpy as np
import pytest
import torch
from bitwise import assert_bitwise
from ray.tune.schedulers import TrialScheduler

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, write_checkpoint
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributed.plan import Devices
from cplmix_ray.training.events import Snapshot
from cplmix_ray.tuning import schedulers as here
from cplmix_ray.tuning.exchanges import Exchange, PopulationMember, WeightTransfer, read_exchanges, write_exchange
from cplmix_ray.tuning.records import TrialState, append_record, write_record
from cplmix_ray.tuning.resume import read_search_state
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.search_setup import SearchSetup
from cplmix_ray.utils.errors import DiskError, TrainingError

SPACE = {"objective.lam": {"loguniform": [0.1, 10]}, "training.lr": {"choice": [1e-3, 2e-3, 3e-3, 4e-3]}}
SPEC = SearchConfig.model_validate(
    {
        "run": {"model": {"n_arms": 1}},
        "space": SPACE,
        "search": {"scheduler": "pbt", "trials": 4, "perturb_every": 10, "search_seed": 5},
    }
)
POINT = {"objective.lam": 1.0, "training.lr": 2e-3}
FACTS = {
    "preparations": {"main": Preparation("images", ("p0", "p1"), image_shape=(1, 2)).as_dict()},
    "n_cells": 4,
    "seconds": 1.5,
}
LATER = {"name": "0002", "step": 30}
MOVE = WeightTransfer(name="0000", origin="0001", step=10, point={"objective.lam": 2.5, "training.lr": 1e-3})


def setup_in(folder: SearchFolder, spec: SearchConfig = SPEC) -> SearchSetup:
    return SearchSetup(spec, "acc", Devices(0, 1, "here"), 50, folder)


# When they are made, and what they draw


class Controller:
    """Trials as Ray Tune's controller shows them to a scheduler; those it is told to run report at once."""

    search_alg, patient = None, False

    def __init__(self, scheduler, n_trials: int, failing: dict[str, int] | None = None):
        self.scheduler, self.failing, self.order = scheduler, failing or {}, []
        self.trials = [Runner(f"{number:04d}") for number in range(n_trials)]
        for trial in self.trials:
            scheduler.on_trial_add(self, trial)

    def get_trials(self):
        return self.trials

    def go_on(self, n_steps: int) -> None:
        """Run all trials to their end, each for ten steps whenever it is chosen; none may be left waiting."""
        while any(not trial.is_finished() for trial in self.trials):
            trial = self.scheduler.choose_trial_to_run(self)
            if trial is None and self.patient:
                continue
            assert trial is not None, "all wait for ever"
            trial.step += 10
            self.order.append((str(trial), trial.step))
            if self.failing.get(str(trial)) == trial.step:
                trial.status = "ERROR"
                self.scheduler.on_trial_error(self, trial)
            elif trial.step == n_steps:
                trial.status = "TERMINATED"
                self.scheduler.on_trial_complete(self, trial, {})
            else:
                report = {"step": trial.step, "score": trial.score_at(trial.step)}
                assert self.scheduler.on_trial_result(self, trial, report) == TrialScheduler.PAUSE
                trial.status = "PAUSED"


class Runner:
    """As much of Ray Tune's trial as schedulers look at."""

    def __init__(self, name: str):
        self.name, self.step, self.status = name, 0, "PENDING"
        self.config = {"trial": {"name": name, "point": dict(POINT)}}
        kept = type("Kept", (), {"checkpoint_config": type("Config", (), {"num_to_keep": None})})
        self.run_metadata = type("Metadata", (), {"checkpoint_manager": kept})
        self.experiment_tag = name

    def __str__(self) -> str:
        return self.name

    def score_at(self, step: int) -> float:
        return float(np.random.default_rng([int(self.name), step]).uniform())

    def is_finished(self) -> bool:
        return self.status in ("ERROR", "TERMINATED")

    def set_config(self, config) -> None:
        self.config = config


def population(kept: list, keep=None, say=lambda line: None, at: int = 0, search_seed: int = 5):
    spec = SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"search_seed": search_seed})})
    return here.ResumablePBT(setup_in(SearchFolder("nowhere"), spec), at, keep or kept.append, say)


def test_all_come_to_an_exchange_before_any_goes_on_and_the_worse_take_from_the_better(tmp_path):
    kept = []
    controller = Controller(population(kept), 8)
    controller.go_on(50)
    assert [step for _, step in controller.order] == sorted(step for _, step in controller.order)
    assert [exchange.step for exchange in kept] == [10, 20, 30, 40]
    for exchange in kept:
        ranked = sorted(controller.trials, key=lambda trial: trial.score_at(exchange.step))
        worse, better = ({str(trial) for trial in part} for part in (ranked[:2], ranked[-2:]))
        assert {move.name for move in exchange.moves} == worse
        assert {move.origin for move in exchange.moves} <= better
        assert all(move.step == exchange.step for move in exchange.moves)
    now = {move.name: move.point for exchange in kept for move in exchange.moves}
    assert {str(t): t.config["trial"]["point"] for t in controller.trials} == {
        str(t): now.get(str(t), POINT) for t in controller.trials
    }
    assert all(0.1 <= point["objective.lam"] <= 10 for point in now.values())
    assert all(point["training.lr"] in SPACE["training.lr"]["choice"] for point in now.values())


@pytest.mark.parametrize("failing", [{"0003": 10}, {"0000": 20}, {"0001": 10, "0002": 30, "0003": 40}])
def test_a_trial_that_fails_leaves_none_waiting(tmp_path, failing):
    kept = []
    controller = Controller(population(kept), 4, failing)
    controller.go_on(50)
    assert [exchange.step for exchange in kept] == [10, 20, 30, 40]
    for exchange in kept:
        involved = {name for move in exchange.moves for name in (move.name, move.origin)}
        assert not any(failing.get(name, 99) <= exchange.step for name in involved)


def test_the_seed_of_the_search_decides_and_the_process_draws_as_before(tmp_path):
    drawn = []
    for seed in (5, 5, 6):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        kept = []
        Controller(population(kept, search_seed=seed), 8).go_on(50)
        drawn.append(kept)
        assert random.random() == random.Random(1).random()
        assert np.random.rand() == np.random.RandomState(1).rand()  # noqa: NPY002
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_search_that_goes_on_makes_the_exchanges_that_the_whole_one_makes(tmp_path):
    whole, rest = [], []
    Controller(population(whole), 4).go_on(50)
    resumed = Controller(population(rest, at=20), 4)
    for trial in resumed.trials:
        points = [move.point for exchange in whole[:2] for move in exchange.moves if move.name == str(trial)]
        trial.step, trial.config = 20, {"trial": {"name": str(trial), "point": points[-1] if points else dict(POINT)}}
    resumed.go_on(50)
    assert rest == whole[2:]


def test_one_that_came_by_without_a_checkpoint_is_waited_for_at_its_next_step(tmp_path):
    kept = []
    scheduler = population(kept)
    controller = Controller(scheduler, 2)
    ahead, behind = controller.trials
    ahead.step = 10  # it could not save at the first exchange, and reports at the second one
    controller.go_on(60)
    assert kept[0].step == 20
    assert [exchange.step for exchange in kept][1:] == [30, 40, 50]
    assert behind.status == ahead.status == "TERMINATED"


def test_an_exchange_that_the_disk_refuses_is_waited_for_and_comes_out_the_same(monkeypatch):
    monkeypatch.setattr(here, "_RETRY_SECONDS", 0.01)
    whole, kept, said, refusals = [], [], [], [2, 0, 1, 0]
    Controller(population(whole), 4).go_on(50)

    def keep(exchange):
        if refusals[len(kept)]:
            refusals[len(kept)] -= 1
            raise DiskError("Full.")
        kept.append(exchange)

    controller = Controller(population(kept, keep=keep, say=said.append), 4)
    controller.patient = True
    controller.go_on(50)
    assert kept == whole and not any(refusals)
    assert len(said) == 2 and all(line.startswith("Full. ") for line in said), "once for each exchange"


# Their record


def test_exchanges_come_back_as_they_were_kept_and_points_with_them(tmp_path):
    folder = SearchFolder(tmp_path)
    exchanges = [
        Exchange(step=10, moves=(MOVE,)),
        Exchange(step=20),
        Exchange(step=30, moves=(MOVE.model_copy(update=LATER),)),
    ]
    for exchange in exchanges:
        write_exchange(folder, exchange)
    assert read_exchanges(folder, SPEC) == (exchanges, [])
    for number in range(4):  # as after a kill between the exchange and the trials' own records
        write_record(folder.trial(f"{number:04d}"), TrialState(f"{number:04d}", "paused", POINT))
    said = []
    rest = read_search_state(setup_in(folder), said.append)
    assert rest.exchanged_at == 30 and not said
    assert dict(rest.trials) == {"0000": MOVE.point, "0001": POINT, "0002": MOVE.point, "0003": POINT}


@pytest.mark.parametrize("kind", ["flipped", "cut"])
def test_no_damaged_exchange_is_believed(tmp_path, kind):
    folder = SearchFolder(tmp_path)
    exchanges = [Exchange(step=10, moves=(MOVE,)), Exchange(step=20, moves=(MOVE.model_copy(update={"step": 20}),))]
    for exchange in exchanges:
        write_exchange(folder, exchange)
    whole = folder.exchanges.read_bytes()
    for at in range(len(whole)):
        folder.exchanges.write_bytes(
            whole[:at] if kind == "cut" else whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        )
        found, wrong = read_exchanges(folder, SPEC)
        assert all(exchange in exchanges for exchange in found)
        lines = (0, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 1)  # cut here, all that is left is whole
        assert wrong or (kind == "cut" and at in lines), at
        write_exchange(folder, Exchange(step=30))
        assert read_exchanges(folder, SPEC)[0] == [*found, Exchange(step=30)]
    folder.exchanges.write_bytes(whole[:-9])
    said = []
    assert read_search_state(setup_in(folder), said.append).exchanged_at == 10
    assert len(said) == 1 and "exchanges.jsonl has 1 damaged line" in said[0] and "\n" not in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../0001"},
        {"origin": "/etc"},
        {"step": -1},
        {"step": "10"},
        {"point": {}},
        {"point": {"objective.lam": -1.0, "training.lr": 1e-3}},
        {"point": {"input.data": "/etc/passwd", "training.lr": 1e-3}},
        {"more": 1},
    ],
)
def test_exchanges_of_somebody_else_are_passed_over(tmp_path, change):
    folder = SearchFolder(tmp_path)
    append_record(folder.exchanges, {"step": 10, "moves": [{**MOVE.model_dump(), **change}]})
    assert read_exchanges(folder, SPEC) == ([], [f"{folder.exchanges} has 1 damaged line"])


def test_an_exchange_that_cannot_be_kept_says_so(tmp_path):
    folder = SearchFolder(tmp_path)
    folder.exchanges.mkdir()
    with pytest.raises(TrainingError, match=r"Cannot write .*exchanges\.jsonl"):
        write_exchange(folder, Exchange(step=10))
    assert read_exchanges(folder, SPEC)[1] == [f"{folder.exchanges} cannot be read (Is a directory)"]


# What a trial finds after one


def weights_of(name: str, step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {"arm-0": {"network/w": torch.tensor([float(name), float(step)])}}


def save(folder: SearchFolder, name: str, step: int, told: bool = True, keep: int = 2) -> None:
    facts = {**FACTS, "config": {**SPEC.run.model_dump(mode="json"), "seed": int(name)}}
    write_checkpoint(folder.trial(name).run(0).checkpoints, Snapshot(step, weights_of(name, step)), facts, keep)
    if told:
        append_record(folder.trial(name).reports, {"step": step, "score": 0.5, "complete": False, "done": False})


def begin(folder: SearchFolder, name: str = "0000"):
    """A trial's process that starts: what it tells at once, and from where it goes on."""
    run = folder.trial(name).run(0)
    told = PopulationMember(folder, name, run, read_exchanges(folder, SPEC)[0]).prepare(SPEC.run, n_steps=50)
    return told, latest_checkpoint(run.checkpoints)[0]


def test_a_moved_trial_takes_the_better_ones_weights_once(tmp_path):
    folder = SearchFolder(tmp_path)
    for name in ("0000", "0001"):
        save(folder, name, 10)
    write_exchange(folder, Exchange(step=10, moves=(MOVE,)))
    save(folder, "0001", 20)  # the better one may be ahead by then
    told, found = begin(folder)
    assert told is None and found.step == 10
    assert_bitwise(found.parts, weights_of("0001", 10))
    assert found.manifest["config"] == SPEC.run.model_dump(mode="json"), "its settings are its own"
    save(folder, "0000", 10)  # weights of its own again: not asked for a second time
    assert_bitwise(begin(folder)[1].parts, weights_of("0000", 10))


def test_a_kill_at_any_moment_of_the_taking_is_made_good(tmp_path, monkeypatch):
    """At whatever operation on files the process ends, the next one takes what was to be taken."""
    from cplmix_ray.tuning import exchanges as here

    for stop_at in range(3):
        folder = SearchFolder(tmp_path / str(stop_at))
        save(folder, "0000", 5), save(folder, "0000", 10), save(folder, "0001", 10)
        write_exchange(folder, Exchange(step=10, moves=(MOVE,)))
        with monkeypatch.context() as patch:
            patch.setattr(here, ("write_checkpoint", "discard", "write_json")[stop_at], fail)
            with pytest.raises(KeyboardInterrupt):
                begin(folder)
        told, found = begin(folder)
        assert told is None
        assert_bitwise(found.parts, weights_of("0001", 10))
        assert [path.name for path in found.path.parent.iterdir()] == ["step-00000010"]


def fail(*args, **kwargs):
    raise KeyboardInterrupt


def test_one_that_has_come_to_the_next_exchange_tells_so_again(tmp_path):
    folder = SearchFolder(tmp_path)
    write_exchange(folder, Exchange(step=10))
    save(folder, "0000", 10)
    assert begin(folder)[0] is None
    save(folder, "0000", 20)
    told, found = begin(folder)
    assert (told["step"], told["score"], found.step) == (20, 0.5, 20)
    write_exchange(folder, Exchange(step=20))
    assert begin(folder)[0] is None


def test_a_checkpoint_without_its_report_is_made_again(tmp_path):
    folder = SearchFolder(tmp_path)
    write_exchange(folder, Exchange(step=10))
    save(folder, "0000", 10)
    save(folder, "0000", 20, told=False)
    told, found = begin(folder)
    assert told is None and found.step == 10
    save(folder, "0000", 50, told=False)  # the end has no exchange
    assert begin(folder)[1].step == 50


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_weights_that_cannot_be_read_are_a_sentence_and_the_own_ones_stay(tmp_path, damage):
    folder = SearchFolder(tmp_path)
    save(folder, "0000", 10), save(folder, "0001", 10)
    write_exchange(folder, Exchange(step=10, moves=(MOVE,)))
    (path,) = folder.trial("0001").run(0).checkpoints.glob("step-*/arm-0.safetensors")
    data = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrainingError, match=r"\b0001\b.* step 10\b") as caught:
        begin(folder)
    assert "\n" not in str(caught.value)
    assert_bitwise(latest_checkpoint(folder.trial("0000").run(0).checkpoints)[0].parts, weights_of("0000", 10))


def test_no_room_for_the_weights_is_a_sentence(tmp_path, monkeypatch):
    import errno

    from cplmix_ray.tuning import exchanges as here

    folder = SearchFolder(tmp_path)
    save(folder, "0000", 10), save(folder, "0001", 10)
    write_exchange(folder, Exchange(step=10, moves=(MOVE,)))

    def full(*args):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(here, "write_checkpoint", full)
    with pytest.raises(DiskError, match=r"checkpoints.*No space"):
        begin(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"step": "10"}', b'{"step": true}', b"[" * 100_000])
def test_a_damaged_note_of_what_was_taken_asks_for_it_again(tmp_path, text):
    folder = SearchFolder(tmp_path)
    save(folder, "0000", 10), save(folder, "0001", 10)
    write_exchange(folder, Exchange(step=10, moves=(MOVE,)))
    folder.trial("0000").taken.write_bytes(text)
    assert_bitwise(begin(folder)[1].parts, weights_of("0001", 10))
    assert json.loads(folder.trial("0000").taken.read_text()) == {"step": 10}
