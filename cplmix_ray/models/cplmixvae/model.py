"""Coupled mixture VAEs as a :class:`cplmix_ray.models.base.Model`."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import build_augmentations
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.couplings.simplex import centre
from cplmix_ray.data.covariates import design_matrix
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN
from cplmix_ray.models.base import Batch, CellBlock, Model, Parts, Report, TrainingContext
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup, build_network, load_weights, part_of
from cplmix_ray.models.cplmixvae.category_merging import merge_categories
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.dataset import ArmTables, augmentations_for, resolved_model
from cplmix_ray.models.cplmixvae.loadings_fit import fit_loadings
from cplmix_ray.models.cplmixvae.network import PackedArms
from cplmix_ray.models.cplmixvae.objective import aligning, weights_at
from cplmix_ray.models.cplmixvae.training_step import StepContext, augmented_batch, train_step, whole_batch
from cplmix_ray.models.schedules import lr_at


def log_abundances(guess_n: Tensor, n_categories: int) -> Tensor:
    """Log of the fraction of cells in each initial cluster, shape (K,); an empty cluster counts as half a cell."""
    cells_k = torch.bincount(guess_n, minlength=n_categories).float().clamp_min(0.5)
    return (cells_k / cells_k.sum()).log()


class CoupledArms(Model):
    """Some arms of a run; every arm is a unit of one part, ``arm-0``, ``arm-1``, ..."""

    def __init__(self, config: CplMixVAEConfig, preparation: Preparation, arms: Sequence[int], device: torch.device):
        self.config, self.preparation, self.units, self.device = config, preparation, tuple(arms), device
        self._reconstruct = resolved_model(config, preparation).reconstruct
        self._network: PackedArms | None = None

    @property
    def network(self) -> PackedArms:
        """The packed networks of the arms, after weights were initialised or loaded."""
        assert self._network is not None
        return self._network

    def start_training(self, context: TrainingContext, saved: Parts | None) -> None:
        config, data, shards = self.config, context.data, context.groups.shards
        assert isinstance(data.tables, ArmTables)
        self.context = context
        self.group = ArmGroup(config, self.preparation, self.units, self.device, saved, context.step, shards)
        self._network = self.group.network
        guessed = data.tables.guess if config.guesses else None
        self.guess = None if guessed is None else torch.as_tensor(guessed)
        prior = None
        if self.guess is not None:
            prior = log_abundances(self.guess[data.train_idx, 0], config.model.n_k).to(self.device)
        kinds = augmentations_for(config, self.preparation, data.matrix)
        augmentations = build_augmentations(
            kinds, config.copies, self.preparation, data.tables, context.cells.pick_neighbors
        )
        self.step_context = StepContext(
            config,
            context.cells.rows,
            augmentations,
            context.n_steps,
            UnitSum(context.groups.units),
            prior,
            partial(self._columns, data.covariates),
        )

    def training_step(self, batch: Batch, step: int) -> Report:
        guess_anm = None if self.guess is None else self._guesses(self.guess[batch.rows].to(self.device))
        cells = targets = augmented_batch(self.group, self.step_context, batch.idx_n)
        if self._reconstruct == "cell" and not aligning(step, self.config):
            targets = whole_batch(self.group, self.step_context, batch.idx_n)
        terms, distance = train_step(
            self.group, self.step_context, cells.rows, step, guess_anm, targets.rows, targets.covariates_anv
        )
        settings = {
            "lam": weights_at(step, self.config).lam,
            "lr": lr_at(step, self.step_context.n_steps, self.config.training),
        }
        unit_sum = self.step_context.unit_sum
        return Report(terms, {"distance": distance}, settings, unit_sum.waited, unit_sum.sent)

    def _guesses(self, votes_nm: Tensor) -> Tensor:
        """Initial categories that each arm learns, (A_local, n, m): those of the cell and of the arm's share."""
        if votes_nm.shape[1] == 1:
            return votes_nm.expand(len(self.units), -1, -1)
        return torch.stack([votes_nm[:, [0, 1 + arm]] for arm in self.units])

    def after_step(self, done: int, observed: bool) -> None:
        """Merge fine categories at the end of the first stage, and within it before an evaluation or a snapshot; fit a
        linear decoder to the categories of the first stage."""
        first_stage = self.config.alignment.align_steps
        if self.config.model.overcluster > 1 and (done == first_stage or (done < first_stage and observed)):
            merge_categories(self.group, self.step_context, self.context.cells.available, done)
        if self.network.linear is not None and done == first_stage:
            fit_loadings(self.group, self.step_context, self.context.cells.available, done)

    def parts(self) -> Parts:
        if hasattr(self, "group"):
            return self.group.snapshot()
        network = self.network
        return {
            part_of(arm): {
                f"network/{name}": tensor[min(i, tensor.shape[0] - 1)].detach().cpu().clone()
                for name, tensor in [*network.named_parameters(), *network.named_buffers()]
            }
            for i, arm in enumerate(self.units)
        }

    def load_weights(self, saved: Parts) -> None:
        self._require_fit(saved)
        self._network = build_network(len(self.units), self.config, self.preparation).to(self.device)
        load_weights(self._network, self.units, saved)

    def infer(self, cells: CellBlock, wanted: Collection[str]) -> dict[str, Tensor]:
        network, n_arms = self.network, len(self.units)
        network.eval()
        rows, v_nv = [cells.rows[MAIN]] * n_arms, self._columns(cells.covariates, slice(None))
        v_anv = None if v_nv is None else v_nv.expand(n_arms, -1, -1)
        encoded = network.encode(rows)
        found = {"log_q_ank": encoded.log_q_ank}
        if "reconstruction_a" in wanted:
            q_ank = encoded.log_q_ank.exp()
            mu_and, _ = network.state(encoded.z_anb, q_ank, rows, v_anv)
            found["reconstruction_a"] = network.reconstruction(rows, mu_and, q_ank, v_anv)
        if {"probs_nk", "state_nd"} & set(wanted):
            found["probs_nk"] = centre(encoded.log_q_ank)
            mu_and, _ = network.state(encoded.z_anb, found["probs_nk"].expand(n_arms, -1, -1), rows, v_anv)
            found["state_nd"] = mu_and[0]
        return {name: found[name] for name in wanted}

    def _columns(self, values: Mapping[str, np.ndarray], idx_n: np.ndarray | slice) -> Tensor | None:
        """Columns of the covariates of some cells on the device, (n, v); None without covariates."""
        covariates = self.preparation.covariates
        return torch.from_numpy(design_matrix(covariates, values, idx_n)).to(self.device) if covariates else None

    @torch.no_grad()
    def decode(self, **latent: Tensor) -> Tensor:
        """Expected cells, shape (A, n, g), for ``c`` (n, K), ``s`` (n, d) and, if there are covariates, their columns
        ``v`` (n, v), without which cells are average ones: log-expression, pixels, or counts of a cell with the
        library size of the preparation."""
        network, n_arms = self.network, len(self.units)
        network.eval()
        given = {name: each.to(self.device).expand(n_arms, -1, -1) for name, each in latent.items()}
        n_genes = network.shape.n_genes
        usual_ang = given["s"].new_full((n_arms, given["s"].shape[1], n_genes), self.preparation.library / n_genes)
        return network.shape.likelihood.mean(usual_ang, network.decode(given["s"], given["c"], given.get("v")))

    def loadings(self) -> np.ndarray | None:
        """Loadings of the state of the first arm, whose state is reported, shape (K, d, g); None without any."""
        if self.network.linear is None:
            return None
        self.network.eval()
        with torch.no_grad():
            return self.network.linear.means_and_loadings(0)[1].cpu().numpy()

    def _require_fit(self, saved: Parts) -> None:
        """Compare saved weights with the networks of the settings, before memory is allocated for those.

        Raises:
            ValueError: names or shapes differ.
        """
        with torch.device("meta"):
            network = build_network(1, self.config, self.preparation)
        expected = {name: tensor.shape[1:] for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
        for arm in self.units:
            for name, shape in expected.items():
                found = saved.get(part_of(arm), {}).get(f"network/{name}")
                if found is None or found.shape != shape:
                    has = "none" if found is None else f"{tuple(found.shape)}"
                    raise ValueError(f"arm {arm} should have {name} of shape {tuple(shape)}, and has {has}")
