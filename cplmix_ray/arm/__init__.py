"""The arms: packed networks and their samplers."""

from cplmix_ray.arm.network import ArmShape, Encoded, PackedArms
from cplmix_ray.arm.sampling import gaussian_sample, gumbel_noise, gumbel_softmax

__all__ = ["ArmShape", "Encoded", "PackedArms", "gaussian_sample", "gumbel_noise", "gumbel_softmax"]
