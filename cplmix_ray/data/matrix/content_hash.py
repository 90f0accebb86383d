"""A hash of the values of a matrix that is read block by block."""

import hashlib

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block


class ContentHash:
    """SHA-256 of all values as float32, with their rows and columns.

    It is the same for a dense and a sparse matrix, for integers and floats of the same values, and for any division
    into blocks.
    """

    def __init__(self) -> None:
        self._streams = tuple(hashlib.sha256() for _ in range(3))

    def add(self, block: Block) -> None:
        """Add the next rows."""
        if sp.issparse(block):
            stored = block if block.has_sorted_indices else block.sorted_indices()
            if not stored.data.all():
                stored = stored.copy()
                stored.eliminate_zeros()
            values, columns, counts_n = stored.data, stored.indices, np.diff(stored.indptr)
        else:
            flat = np.ascontiguousarray(block).ravel()
            places = np.flatnonzero(flat)
            values, columns = flat[places], places % max(1, block.shape[1])
            counts_n = np.bincount(places // max(1, block.shape[1]), minlength=block.shape[0])
        parts = (counts_n, np.int64), (columns, np.int32), (values, np.float32)
        for stream, (part, dtype) in zip(self._streams, parts, strict=True):
            stream.update(np.ascontiguousarray(part, dtype=dtype).data)

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(stream.digest() for stream in self._streams)).hexdigest()
