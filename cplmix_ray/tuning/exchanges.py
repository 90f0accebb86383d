"""Exchanges of population based training: their record, and where a trial goes on after one.

``exchanges.jsonl`` in the search's folder, by the driver: every exchange, a line each with a checksum, on the disk
before any trial goes on from it. ``taken.json`` in a trial's folder, by the trial: the step of the last exchange at
which it has taken the weights of a better one.
"""

import json
from dataclasses import asdict
from typing import Any

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError

from cplmix_ray.checkpoints.checkpoint import checkpoint_at, latest_checkpoint, read_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder, write_json
from cplmix_ray.config import Config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.config.section import Section
from cplmix_ray.distributed.events import Snapshot
from cplmix_ray.tuning.jsonl import append_record, count_damaged, read_lines, unseal
from cplmix_ray.tuning.records import read_reports
from cplmix_ray.tuning.search_folder import SearchFolder, TrialFolder
from cplmix_ray.tuning.space import config_at
from cplmix_ray.tuning.trial_state import Exchange, Move
from cplmix_ray.utils.durable import discard, unwritten
from cplmix_ray.utils.errors import InputError, TrainingError

Report = dict[str, Any]


class _Move(Section):
    name: str = Field(pattern=r"^\d{4,}$")
    origin: str = Field(pattern=r"^\d{4,}$")
    step: int = Field(ge=0)
    point: dict[str, Any]


class _Exchange(Section):
    step: int = Field(ge=0)
    moves: list[_Move]


def keep_exchange(folder: SearchFolder, exchange: Exchange) -> None:
    """Keep an exchange.

    Raises:
        DiskError: it cannot be written.
    """
    append_record(folder.exchanges, {"step": exchange.step, "moves": [asdict(move) for move in exchange.moves]})


def read_exchanges(folder: SearchFolder, spec: SearchConfig) -> tuple[list[Exchange], list[str]]:
    """The exchanges so far, and what was wrong with others, which are made again or lost."""
    exchanges, damaged = [], 0
    try:
        lines = read_lines(folder.exchanges)
    except OSError as error:
        return [], [f"{folder.exchanges} cannot be read ({error.strerror})"]
    for line in lines:
        try:
            told = _Exchange.model_validate(unseal(line))
            for move in told.moves:
                if set(move.point) != set(spec.space):
                    raise ValueError("a point is not one of this search")
                config_at(spec.run, move.point)
        except (ValueError, InputError):
            damaged += 1
            continue
        exchanges.append(Exchange(told.step, tuple(Move(**dict(move)) for move in told.moves)))
    return exchanges, count_damaged(folder.exchanges, damaged)


class Member:
    """A trial of population based training, after the last exchange."""

    def __init__(self, folder: SearchFolder, name: str, run: RunFolder, exchanges: list[Exchange]):
        self.folder, self.trial, self.run = folder, folder.trial(name), run
        self.exchanged_at = exchanges[-1].step if exchanges else 0
        self.move: Move | None
        moves = [(exchange.step, move) for exchange in exchanges for move in exchange.moves if move.name == name]
        self.moved_at, self.move = moves[-1] if moves else (0, None)

    def make_ready(self, config: Config, n_steps: int) -> Report | None:
        """Leave the checkpoint as the run's newest from which the trial goes on.

        Args:
            config: the settings of the run from here on.
            n_steps: at its end there is no exchange.

        Returns:
            The report of that checkpoint's step where the trial has come to the next exchange with it already: it was
            interrupted as it waited there, and does so again.

        Raises:
            TrainingError: the weights of a better trial cannot be read.
            DiskError, InputError: they cannot be kept.
        """
        if self.move is not None and _taken_at(self.trial) < self.moved_at:
            self._take(self.move, config)
        told = {report["step"]: report for report in read_reports(self.trial)[0]}
        while True:
            newest, _ = latest_checkpoint(self.run.checkpoints)
            if newest is None or not self.exchanged_at < newest.step < n_steps:
                return None
            if newest.step in told:
                return told[newest.step]
            discard(newest.path)  # a kill came between this and its report, whose scores the run finds again

    def _take(self, move: Move, config: Config) -> None:
        """What this trial had reached gives way to what a better one has, and is the run's own from now on."""
        path = checkpoint_at(self.folder.trial(move.origin).run(config.seed).checkpoints, move.step)
        try:
            given = read_checkpoint(path)
        except (OSError, ValueError, SafetensorError) as error:
            why = " ".join(str(error).split())
            raise TrainingError(
                f"The weights of trial {move.origin} at step {move.step} cannot be read ({why})."
            ) from None
        facts = {k: v for k, v in given.manifest.items() if k not in ("sha256", "format", "step", "files")}
        facts["config"] = config.model_dump(mode="json")
        snapshot, keep = Snapshot(given.step, given.arms), config.training.keep_checkpoints
        try:
            own = write_checkpoint(self.run.checkpoints, snapshot, facts, keep)
            for other in self.run.checkpoints.glob("step-*"):
                if other != own:
                    discard(other)
        except OSError as error:
            raise unwritten(self.run.checkpoints, error) from None
        write_json(self.trial.taken, {"step": self.moved_at})


def _taken_at(trial: TrialFolder) -> int:
    try:
        return TypeAdapter(int).validate_python(json.loads(trial.taken.read_bytes())["step"], strict=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
