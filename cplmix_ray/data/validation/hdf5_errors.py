"""Errors of HDF5 and anndata as one sentence that says the cause first."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cplmix_ray.utils.errors import InputError

_CAUSES = (
    (
        r"unable to lock file, errno = 11\b|already open for write",
        "is open for writing in another program; close it there, in a notebook with adata.file.close(), or copy it.",
    ),
    (
        r"unable to lock file",
        "is on a file system without locks; set the environment variable HDF5_USE_FILE_LOCKING=FALSE, or copy the file "
        "to a local disk.",
    ),
    (r"truncated file", "is truncated; copy or download it again."),
    (r"file signature not found", "is no .h5ad file: it is not in the HDF5 format; check the path given to --data."),
)
"""Patterns of HDF5's messages about a whole file, and what each means, after its path."""

_REASONS = (
    (r"object '(.*)' doesn't exist", r"there is no '\1' in it"),
    (r"(?:cannot import name|No module named) '(\w+)'", r"the package \1 is not installed; pip install \1"),
    (
        r"No read method registered for IOSpec\(encoding_type='(.*?)', encoding_version='(.*?)'",
        r"this version of anndata does not know the encoding '\1' \2; pip install -U anndata",
    ),
)
"""Patterns of messages about a part of a file, and what each means."""


def unreadable(path: str | Path, error: Exception) -> InputError:
    """The error for a file that HDF5 or anndata cannot read."""
    if isinstance(error, MemoryError):
        return InputError(f"{path} does not fit into memory; leave its matrix on disk with --backed yes.")
    if isinstance(error, PermissionError):
        return InputError(f"{path} must not be read by this user; ask its owner for access (chmod a+r).")
    for pattern, meaning in _CAUSES:
        if re.search(pattern, str(error)):
            return InputError(f"{path} {meaning}")
    key = failed_key(error)
    what = f"{key} of {path}" if key else str(path)
    return InputError(
        f"{what} cannot be read: {reason_of(error)}; if anndata.read_h5ad('{path}') fails too, write the file again, "
        f"or take another copy."
    )


def failed_key(error: Exception) -> str:
    """The path within the file of what anndata could not read, such as obsm/X_pca; empty where it does not say."""
    for note in getattr(error, "__notes__", ()):
        named = re.search(r"reading key '(.*)' of .* from (/.*)$", note)
        if named:
            return f"{named[2]}/{named[1]}".strip("/")
    return ""


def reason_of(error: Exception) -> str:
    """The first line of what an exception says, of limited length."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    for pattern, meaning in _REASONS:
        found = re.search(pattern, text)
        if found:
            return found.expand(meaning)
    line = next((line.strip(" .:") for line in text.splitlines() if line.strip(" .:")), type(error).__name__)
    return line[:300]


def ignore_warnings() -> warnings.catch_warnings:
    """Ignore anndata's warnings of old formats and of unusual names; what matters of them is checked here."""
    return warnings.catch_warnings(action="ignore")


@contextmanager
def hdf5_errors(path: str | Path) -> Iterator[None]:
    """Turn the many exceptions that h5py and anndata raise for broken files into one.

    Raises:
        InputError: in place of all of them.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None
