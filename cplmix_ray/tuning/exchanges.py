"""Exchanges of population based training: their records, and how a trial continues after one.

``exchanges.jsonl`` in the search's folder, written by the driver: one exchange per line, on the disk before any trial
continues from it. ``taken.json`` in a trial's folder, written by the trial: the step of the last exchange at which it
took the weights of a better trial.
"""

import json
from typing import Any

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError

from cplmix_ray.checkpoints.checkpoint import checkpoint_at, latest_checkpoint, read_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.config.section import Section
from cplmix_ray.training.events import Snapshot
from cplmix_ray.tuning.records import Report, append_record, read_records, read_reports
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.space import check_point
from cplmix_ray.utils.durable import discard, unwritten, write_json
from cplmix_ray.utils.errors import TrainingError


class WeightTransfer(Section):
    """A trial that continues from another one.

    Attributes:
        name: the trial that lagged behind.
        origin: the better trial, whose weights at ``step`` it takes.
        point: its new point in the space, near that of the better trial.
    """

    name: str = Field(pattern=r"^\d{4,}$")
    origin: str = Field(pattern=r"^\d{4,}$")
    step: int = Field(ge=0)
    point: dict[str, Any]


class Exchange(Section):
    """The decision made when all trials had reached ``step``."""

    step: int = Field(ge=0)
    moves: tuple[WeightTransfer, ...] = Field((), strict=False)


def write_exchange(folder: SearchFolder, exchange: Exchange) -> None:
    """Append an exchange to exchanges.jsonl.

    Raises:
        DiskError: it cannot be written.
    """
    append_record(folder.exchanges, exchange.model_dump())


def read_exchanges(folder: SearchFolder, spec: SearchConfig) -> tuple[list[Exchange], list[str]]:
    """The exchanges so far, and what was wrong with others, which are made again or lost."""

    def parse(record: dict[str, Any]) -> Exchange:
        exchange = Exchange.model_validate(record)
        for move in exchange.moves:
            check_point(spec, move.point)
        return exchange

    return read_records(folder.exchanges, parse)


class PopulationMember:
    """A trial of population based training, after the last exchange."""

    def __init__(self, folder: SearchFolder, name: str, run: RunFolder, exchanges: list[Exchange]):
        self.folder, self.trial, self.run = folder, folder.trial(name), run
        self.exchanged_at = exchanges[-1].step if exchanges else 0
        self.move: WeightTransfer | None
        moves = [(exchange.step, move) for exchange in exchanges for move in exchange.moves if move.name == name]
        self.moved_at, self.move = moves[-1] if moves else (0, None)

    def prepare(self, config: RunConfig, n_steps: int) -> Report | None:
        """Make the checkpoint from which the trial continues the newest of its run.

        Args:
            config: the settings of the run from here on.
            n_steps: steps of the run; there is no exchange after the last.

        Returns:
            The report of that checkpoint's step where the trial has reached the next exchange already: it was
            interrupted while it waited there, and waits again.

        Raises:
            TrainingError: the weights of a better trial cannot be read.
            DiskError, InputError: they cannot be written.
        """
        if self.move is not None and self._taken_at() < self.moved_at:
            self._take(self.move, config)
        reports = {report["step"]: report for report in read_reports(self.trial)[0]}
        while True:
            newest, _ = latest_checkpoint(self.run.checkpoints)
            if newest is None or not self.exchanged_at < newest.step < n_steps:
                return None
            if newest.step in reports:
                return reports[newest.step]
            discard(newest.path)  # a kill came between this and its report, whose scores the run finds again

    def _take(self, move: WeightTransfer, config: RunConfig) -> None:
        """Replace the checkpoints of this trial with the better trial's."""
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
        snapshot, keep = Snapshot(given.step, given.parts), config.training.keep_checkpoints
        try:
            own = write_checkpoint(self.run.checkpoints, snapshot, facts, keep)
            for other in self.run.checkpoints.glob("step-*"):
                if other != own:
                    discard(other)
        except OSError as error:
            raise unwritten(self.run.checkpoints, error) from None
        write_json(self.trial.taken, {"step": self.moved_at})

    def _taken_at(self) -> int:
        try:
            return TypeAdapter(int).validate_python(json.loads(self.trial.taken.read_bytes())["step"], strict=True)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0
