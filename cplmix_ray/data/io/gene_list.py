"""Lists of genes in text files."""

from pathlib import Path

from cplmix_ray.utils.errors import InputError

_HEADINGS = {"", "gene", "genes", "gene_name", "gene_names", "gene_symbol", "x"}


def read_gene_list(path: str, option: str = "--genes") -> list[str]:
    """Gene names, one on each line: the first column of a CSV file, a heading such as 'genes' left out.

    Raises:
        InputError: the file is missing, is no text, holds nothing or names a gene twice.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check the path given to {option}.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.split(",")[0].strip().strip('"') for line in file if line.strip()]
    except (UnicodeError, OSError):
        raise InputError(f"{path} is no text file; give one with a gene name on each line to {option}.") from None
    if names and names[0].lower() in _HEADINGS:
        names = names[1:]
    if not names:
        raise InputError(f"{path} names no gene; give a file with a gene name on each line to {option}.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path} names gene '{name}' more than once; name each gene once.")
        seen.add(name)
    return names
