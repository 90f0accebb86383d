"""Names of genes and of branches of the tree."""

from itertools import takewhile

from cplmix_ray.data.io.gene_list import read_gene_list
from cplmix_ray.simulation.tree import Tree
from cplmix_ray.utils.errors import InputError

DEFAULT_GENES = 5032


def gene_names(path: str | None, n_genes: int | None) -> list[str]:
    """The first genes of a list with one on each line, or made up.

    Raises:
        InputError: the list is missing, broken or too short.
    """
    if path is None:
        n_genes = n_genes or DEFAULT_GENES
        return [f"gene_{i:0{len(str(n_genes))}d}" for i in range(1, n_genes + 1)]
    names = read_gene_list(path, "--gene-names")[:n_genes]
    if len(names) < (n_genes or 10):
        raise InputError(f"{path} names {len(names)} genes, fewer than --genes {n_genes or 10}.")
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
