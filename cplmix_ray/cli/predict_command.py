"""`python -m cplmix_ray.predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import parse_line
from cplmix_ray.cli.progress import shown_check
from cplmix_ray.cli.table import score_line
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Predict:
    """Give cells, old or new, their categories and states by a trained model; the genes must have the same names."""

    run: str
    """Folder that train wrote with --out."""
    data: str
    """Cells (.h5ad or .csv), images (.npz), 'digits' or 'dsprites' to annotate; the file itself is left alone."""
    out: str
    """The .h5ad to write: the given cells with the results added."""
    layer: str | None = None
    """Layer of the .h5ad that holds the expression; default: the one the run was trained on."""
    backed: Literal["auto", "yes", "no"] = "auto"
    """Leave the matrix of an .h5ad on disk, as for train; the results are then written without it."""
    metadata: str | None = None
    """CSV file with what is known of the cells, as for train; cells without a line in it are left out."""
    subset: int | None = None
    """Annotate this many of the cells, drawn by the run's seed; default: all."""
    key_added: str = "cplmix"
    """Beginning of the added names: obs <key>_category and <key>_confidence, obsm X_<key> and <key>_probs."""


def predict(args: list[str]) -> None:
    """Infer, add the keys, write the file, and say where it is."""
    command = parse_line(Predict, args, "predict")
    with loading():
        from cplmix_ray.checkpoints.run_folder import require_writable
        from cplmix_ray.data.dataset import read_source
        from cplmix_ray.data.io.csv_cells import is_table
        from cplmix_ray.data.io.h5ad_backed import DiskUse
        from cplmix_ray.data.io.write_h5ad import write_cells
        from cplmix_ray.data.matrix.lazy import NO_PIXELS, LazyRows
        from cplmix_ray.data.matrix.on_disk import NO_MATRIX, RowsOnDisk
        from cplmix_ray.evaluation.annotate import annotate
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.metrics.summary import score

    out = Path(command.out)
    if out.exists() and Path(command.data).exists() and out.samefile(command.data):
        raise InputError(f"--out {out} is the file that --data names, which is left alone; name another one.")
    require_writable(out.parent)
    model = TrainedModel.load(command.run)
    layer = command.layer if command.layer is not None or is_table(command.data) else model.config.input.layer
    disk = DiskUse(command.backed, shown_check())
    source = read_source(command.data, layer, None, command.subset, model.config.seed, command.metadata, disk=disk)
    for note in source.notes:
        print(note)
    inferred = model.infer(model.values_of(source), reconstruct=False)
    scores, _ = score(inferred.log_q_ank, inferred.probs_nk, None)
    annotate(source.adata, inferred, model, scores, command.key_added)
    write_cells(out, source.adata)
    if isinstance(source.values_ng, LazyRows):
        print(NO_PIXELS)
    elif isinstance(source.values_ng, RowsOnDisk):
        print(NO_MATRIX)
    print(score_line(f"{source.n_cells} cells", scores))
    print(f"Results are in {out}: obs['{command.key_added}_category'], obsm['X_{command.key_added}'] and others.")
