"""Names of genes and of branches of the tree."""

import os
from itertools import takewhile

from cplmix_ray.errors import InputError
from cplmix_ray.simulator.tree import Tree

DEFAULT_GENES = 5032


def gene_names(path: str | None, n_genes: int | None) -> list[str]:
    """The first genes of a list with one on each line (first column, a heading 'genes' or 'gene' left out), or made up.

    Raises:
        InputError: the list is missing, too short, or names a gene twice.
    """
    if path is None:
        n_genes = n_genes or DEFAULT_GENES
        return [f"gene_{i:0{len(str(n_genes))}d}" for i in range(1, n_genes + 1)]
    if not os.path.isfile(path):
        raise InputError(f"There is no file {path}; check the path given to --gene-names.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.split(",")[0].strip().strip('"') for line in file if line.strip()]
    except UnicodeError:
        raise InputError(f"{path} is no text file; give one with a gene name on each line.") from None
    if names and names[0].lower() in ("gene", "genes", "gene_name", "gene_names"):
        names = names[1:]
    names = names[:n_genes]
    if len(names) < (n_genes or 10):
        raise InputError(f"{path} names {len(names)} genes, fewer than --genes {n_genes or 10}.")
    if len(set(names)) < len(names):
        raise InputError(f"{path} names '{next(g for g in names if names.count(g) > 1)}' more than once.")
    return names


def subclass_names(tree: Tree, n: int) -> list[str]:
    """For each leaf the branch that it is on when the tree is cut into about n: the words that its leaves share."""
    name_of: dict[int, str] = {}
    taken: set[str] = set()
    for node in tree.cut(n):
        leaves = tree.below(node)
        words = [tree.labels[leaf].split() for leaf in leaves]
        shared = " ".join(w[0] for w in takewhile(lambda w: len(set(w)) == 1, zip(*words, strict=False)))
        name = shared if shared and shared not in taken else f"{shared} {tree.labels[node]}".strip()
        taken.add(name)
        name_of.update(dict.fromkeys(leaves, name))
    return [name_of[leaf] for leaf in tree.leaves]
