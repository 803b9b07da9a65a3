"""How a core's second-level cache is shared out among what kernels keep in it.

A convolution works on one strip of its image at a time (see `strip`), which all weights pass by. Both shares
follow `Target.l2_bytes`; what a target assumes where nobody told it is `targets.target.UNKNOWN_L2`, and
`targets.device_targets.ASSUMED_L2` for a device.
"""

from __future__ import annotations

from fractions import Fraction

from targets.target import Target

STRIP_SHARE = Fraction(9, 16)
"""What a strip may take of the cache. On a Zen 5 core with 1 MiB of it layers of VGG-16 and ResNet-18 were up to
3 % slower with 7/16, 9 % with 9/32, 3 % with all of it."""

MOST_STRIP = 9 << 16
"""Bytes beyond which a strip gains nothing: all weights pass it few times anyway. On a Sapphire Rapids core with
2 MiB of cache, 512 -> 512 channels on 28 x 28 took 24.5 ms with 512 KiB, 23.9 with this, 23.3 with 1 MiB; fewer
channels lost up to 5 % with 1 MiB, nothing with this."""

PASSING_SHARE = Fraction(7, 8)
"""What weights may take of the rest, so that they stay there while a strip is worked on; outputs need some of it."""


def strip_bytes(target: Target) -> int:
    """Most bytes of a strip of an image.

    GPUs make strips in memory, by a kernel of their own: the cache of the processor that starts it sets no limit.
    """
    if target.gpu is not None:
        return MOST_STRIP
    return min(MOST_STRIP, int(STRIP_SHARE * target.l2_bytes))


def passing_bytes(target: Target) -> int:
    """Most bytes of weights that stay in the cache beside a strip.

    All of them may pass by one register tile of windows, which then come from the first-level cache, and outputs
    are written in one stretch: 7 to 15 % faster for pruned layers of 150 to 1200 kB on a Sapphire Rapids core with
    2 MiB, and no slower for dense ones; with 2.3 MB or more it was slower.
    """
    return int(PASSING_SHARE * max(0, target.l2_bytes - strip_bytes(target)))
