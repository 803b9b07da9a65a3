"""Networks that are no encoders are cut where all their paths meet."""

from __future__ import annotations

import torch
from torch import nn

from codesign.prepare import prepare
from passes.sites import FFN, Linear, Stretch


def stretches(module: nn.Module, *shape: int) -> list[Stretch]:
    torch.manual_seed(0)
    return list(prepare((module.eval(), (torch.randn(shape),))).sites.layers)


def weights(stretch: Stretch) -> list[tuple[str, ...]]:
    """The weights of each part."""
    return [
        (p.up.weight, p.down.weight) if isinstance(p, FFN) else (p.weight,)
        for p in stretch.parts
        if isinstance(p, FFN | Linear)
    ]


class Block(nn.Module):
    """A basic block, with a convolution on its shortcut where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, out, 3, stride, 1)
        self.b = nn.Conv2d(out, out, 3, 1, 1)
        keeps = stride == 1 and channels == out
        self.s = nn.Identity() if keeps else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))) + self.s(x))


def test_residual_blocks() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Block(4, 4, 1), Block(4, 6, 2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    stem, plain, wide, head = stretches(net, 1, 3, 6, 6)
    assert [s.droppable for s in (stem, plain, wide, head)] == [False, True, False, False]
    assert weights(stem) == [("0.weight",)]
    assert weights(plain) == [("2.a.weight", "2.b.weight")]
    assert weights(wide) == [("3.a.weight", "3.b.weight"), ("3.s.weight",)]
    assert weights(head) == [("6.weight",)]
    assert [s.output for s in (stem, plain, wide)] == [s.input for s in (plain, wide, head)]
    names = [p.name for p in wide.parts]
    assert names == ["block2.pair0", "block2.conv1"]


def test_a_plain_network_is_cut_into_pairs() -> None:
    convs = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(5)]
    layers: list[nn.Module] = [layer for conv in convs for layer in (conv, nn.ReLU())]
    layers.insert(4, nn.MaxPool2d(2))  # between the second and the third
    found = stretches(nn.Sequential(*layers), 1, 3, 8, 8)
    pairs = [("0.weight", "2.weight")], [("5.weight", "7.weight")], [("9.weight",)]
    assert [weights(s) for s in found] == list(pairs)
    assert not any(s.droppable for s in found)


def test_what_is_read_later_is_no_cut() -> None:
    class Skip(nn.Module):
        """The first layer's result is added to the last one's."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second, third = self.layers
            start = first(x)
            return third(torch.tanh(second(start))) + start

    first, rest = stretches(Skip(), 4, 6)
    assert weights(first) == [("layers.0.weight",)]
    assert weights(rest) == [("layers.1.weight", "layers.2.weight")]
    assert rest.droppable


def test_two_inputs_leave_the_first_cut_until_they_meet() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(5, 5) for _ in range(3))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(x)) * self.b(y))

    torch.manual_seed(0)
    sites = prepare((Two().eval(), (torch.randn(2, 5), torch.randn(2, 5)))).sites
    assert [weights(s) for s in sites.layers] == [[("c.weight",)]]
    assert {s.weight for s in sites.linears} == {"a.weight", "b.weight", "c.weight"}
