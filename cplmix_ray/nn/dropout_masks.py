"""Dropout masks from 1, 8 or 16 random bits for each value instead of a random number."""

import numpy as np
import torch
from torch import Tensor


def dropout_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Mask of values that are kept when each is dropped with probability ``rate``.

    Drawing a uniform number for each value would take longer than the matrix product that follows. The rate is exact
    for multiples of 1/256, and rounded to a multiple of 1/65536 otherwise.

    Returns:
        The mask of zeros and ones, uint8, on the generator's device; and the exact probability of being kept.
    """
    bits = 1 if rate == 0.5 else 8 if (rate * 256).is_integer() else 16
    levels = 1 << bits
    dropped = min(round(rate * levels), levels - 1)
    n = 1
    for side in shape:
        n *= side
    words = torch.empty(-(-n * bits // 64), dtype=torch.int64, device=generator.device)
    # All 64 bits: by default the sign bit is not random.
    words.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    if bits == 1:
        return _single_bits(words)[:n].view(shape), 0.5
    draws = words.view(torch.int8 if bits == 8 else torch.int16)[:n]
    return _at_least(draws, dropped - levels // 2).view(shape), 1.0 - dropped / levels


def _single_bits(words: Tensor) -> Tensor:
    """Every bit as a uint8."""
    if words.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(words.view(torch.uint8).numpy()))
    return (
        (words.view(torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8, device=words.device))
        .bitwise_and_(1)
        .flatten()
    )


def _at_least(draws: Tensor, bound: int) -> Tensor:
    """Zeros and ones; on the CPU, NumPy compares integers many times faster than torch."""
    if draws.device.type == "cpu":
        return torch.from_numpy((draws.numpy() >= bound).view(np.uint8))
    return (draws >= bound).view(torch.uint8)
