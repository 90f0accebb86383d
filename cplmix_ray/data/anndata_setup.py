"""What ``CplMixVAE.setup_anndata`` selects in an AnnData object, which keeps it in ``uns``."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import anndata

from cplmix_ray.data.covariates import check_covariates
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.validation.anndata_type import described, require_anndata
from cplmix_ray.utils.errors import ArgumentTypeError, InputError

_KEY = "_cplmix_ray_setup"


@dataclass(frozen=True)
class AnnDataSetup:
    """Matrix and columns of obs that a model of an AnnData object uses.

    Attributes:
        layer: name of a layer, or "raw"; None for X.
        labels_key: column with known types.
        batch_key: column with the batch.
        categorical_covariate_keys, continuous_covariate_keys: further columns that the decoder receives.
    """

    layer: str | None = None
    labels_key: str | None = None
    batch_key: str | None = None
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()

    @classmethod
    def checked(cls, adata: anndata.AnnData, **given: object) -> "AnnDataSetup":
        """A setup whose matrix and columns are in ``adata``.

        Raises:
            InputError: they are not, or hold what they cannot be used for.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ArgumentTypeError(
                    f"setup_anndata has no argument '{name}'; besides adata it takes {', '.join(known)}."
                )
        require_anndata(adata)
        setup = cls(**{name: _of_type(name, value) for name, value in given.items()})  # type: ignore[arg-type]
        source = source_from_anndata(adata, setup.layer, setup.labels_key)
        categorical, continuous = setup.categorical_covariate_keys, setup.continuous_covariate_keys
        check_covariates(adata.obs, setup.batch_key, categorical, continuous, source.name)
        return setup

    @classmethod
    def of(cls, adata: anndata.AnnData) -> "AnnDataSetup | None":
        """The setup that an object keeps; None without any."""
        kept = adata.uns.get(_KEY)
        if kept is None:
            return None
        layer, labels_key, batch_key = (
            str(kept.get(name, "")) or None for name in ("layer", "labels_key", "batch_key")
        )
        categorical, continuous = (
            tuple(map(str, kept.get(name, ()))) for name in ("categorical_covariate_keys", "continuous_covariate_keys")
        )
        return cls(layer, labels_key, batch_key, categorical, continuous)

    def keep_in(self, adata: anndata.AnnData) -> None:
        """Store the setup in ``uns``, in a form that can be written to a file.

        Raises:
            InputError: nothing can be stored in the object.
        """
        if adata.is_view and adata.isbacked:
            raise InputError(
                "adata is a view of a backed object, in which the setup cannot be stored; take its cells into memory "
                "with adata = adata.to_memory(), or write them to a file of their own with "
                "adata = adata.copy('part.h5ad')."
            )
        kept = {name: list(value) if isinstance(value, tuple) else value or "" for name, value in asdict(self).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
            adata.uns[_KEY] = {name: value for name, value in kept.items() if value != []}

    @property
    def covariates(self) -> tuple[str, ...]:
        """Covariates besides the batch, as the setting of that name has them."""
        return *self.categorical_covariate_keys, *self.continuous_covariate_keys


def _of_type(name: str, value: object) -> object:
    if not name.endswith("_keys"):
        if not isinstance(value, str | None):
            raise ArgumentTypeError(f"{name} must be a name or None, not {described(value)}.")
        return value
    keys = (value,) if isinstance(value, str) else () if value is None else value
    names = tuple(keys) if isinstance(keys, Iterable) else (keys,)
    if not all(isinstance(key, str) for key in names):
        raise ArgumentTypeError(f"{name} must be a list of columns of obs, not {value!r}.")
    return names
