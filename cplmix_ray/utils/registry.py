"""Parts of a run that settings choose by name: likelihoods, couplings, augmentations.

A module outside the package adds one by registering it (``register_likelihood``, ``register_coupling``,
``register_augmentation``), and settings take its name from then on. Modules to be imported in every process are named
by the entry points of the group ``cplmix_ray`` or by the environment variable CPLMIX_RAY_EXTENSIONS; see
:mod:`cplmix_ray.utils.extensions`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from cplmix_ray.utils.errors import InputError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name.

    Settings and ``--help`` need the names alone, so a built-in entry's module is only imported when the entry is asked
    for; that module registers it.

    Args:
        kind: what the entries are, for messages.
        built_in: names of the package's own entries, and the modules that register them.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str]):
        self.kind, self._modules = kind, dict(built_in)
        self._entries: dict[str, Entry] = {}

    def names(self) -> tuple[str, ...]:
        """All names, the built-in ones first."""
        return tuple(dict.fromkeys([*self._modules, *self._entries]))

    def register(self, name: str, entry: Entry) -> None:
        """Add an entry.

        Raises:
            ValueError: the name is taken.
        """
        self._load(name)
        if name in self._entries:
            raise ValueError(f"There is a {self.kind} '{name}' already; register it under another name.")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            InputError: there is none in this process.
        """
        self._load(name)
        if name not in self._entries:
            raise InputError(
                f"There is no {self.kind} '{name}'; known are {', '.join(self.names())}. Name the module that "
                f"registers it in CPLMIX_RAY_EXTENSIONS."
            )
        return self._entries[name]

    def _load(self, name: str) -> None:
        if name in self._modules and name not in self._entries:
            import_module(self._modules[name])  # while that module registers its entries, this does nothing


LIKELIHOODS: Registry[Any] = Registry(
    "likelihood",
    {
        "bernoulli": "cplmix_ray.distributions.bernoulli",
        "gaussian": "cplmix_ray.distributions.gaussian",
        "nb": "cplmix_ray.distributions.negative_binomial",
        "zinb": "cplmix_ray.distributions.negative_binomial",
    },
)
"""What their entries are is said in :mod:`cplmix_ray.distributions.likelihood`."""

COUPLINGS: Registry[Any] = Registry(
    "coupling",
    {
        "d_sigma": "cplmix_ray.couplings.distances",
        "aitchison": "cplmix_ray.couplings.distances",
        "euclidean": "cplmix_ray.couplings.distances",
        "agreement": "cplmix_ray.couplings.agreement",
    },
)
"""See :mod:`cplmix_ray.couplings.coupling`."""

AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation",
    {
        "neighbours": "cplmix_ray.augmentations.neighbors",
        "affine": "cplmix_ray.augmentations.affine",
        "centre": "cplmix_ray.augmentations.placement",
        "standardise": "cplmix_ray.augmentations.placement",
        "deskew": "cplmix_ray.augmentations.placement",
        "move": "cplmix_ray.augmentations.placement",
        "pose": "cplmix_ray.augmentations.pose",
        "thinning": "cplmix_ray.augmentations.expression",
        "gene_dropout": "cplmix_ray.augmentations.expression",
        "learned": "cplmix_ray.models.vaegan.augmentation",
    },
)
"""See :mod:`cplmix_ray.augmentations.augmentation`."""
