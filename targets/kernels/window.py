"""The geometry of a convolution: which inputs each output sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

from targets.errors import TargetError


@dataclass(frozen=True)
class Window:
    """The windows that a convolution slides over one NHWC image.

    A convolution is a linear layer on windows: input feature ``(c * kh + r) * kw + s`` of a window is
    channel c at row r and column s of the kernel, the order of an OIHW weight flattened to [O, features].

    Attributes:
        height, width, channels: of the input.
        kernel: (rows, columns).
        strides: (down, across).
        padding: zeros at the (top, left, bottom, right).
        dilation: (down, across), distance of two taps.
    """

    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        positive = (self.height, self.width, self.channels, *self.kernel, *self.strides)
        if min(*positive, *self.dilation) < 1 or min(self.padding) < 0:
            raise TargetError(
                "a window of impossible size",
                got=str(self),
                allowed="sizes, strides and dilation from 1, padding from 0",
            )
        if self.out_height < 1 or self.out_width < 1:
            raise TargetError(
                "a kernel larger than the padded image",
                got=f"{self.span} on {self.height} x {self.width} padded by {self.padding}",
                allowed="at least one position of the window",
            )

    def with_channels(self, channels: int) -> Window:
        """The same window of images with another number of channels."""
        return replace(self, channels=channels)

    @property
    def span(self) -> tuple[int, int]:
        """(rows, columns) from a window's first tap to its last."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def out_height(self) -> int:
        """Positions of the window from top to bottom."""
        top, _, bottom, _ = self.padding
        return (self.height + top + bottom - self.span[0]) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        """Positions of the window from left to right."""
        _, left, _, right = self.padding
        return (self.width + left + right - self.span[1]) // self.strides[1] + 1

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def features(self) -> int:
        """Inputs that one output sees, padding included."""
        return self.channels * self.taps

    @property
    def padded(self) -> bool:
        """True if there is padding at all."""
        return any(self.padding)
