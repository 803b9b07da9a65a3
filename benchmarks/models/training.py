"""Random weights that behave as trained ones do."""

from __future__ import annotations

import torch
from torch import nn

BATCH = 8
"""Random inputs that statistics are taken of."""


def as_trained(module: nn.Module, *example: torch.Tensor, seed: int = 0) -> nn.Module:
    """``module`` with vectors that differ from each other and batch norms that fit its activations.

    Scales, shifts and biases are drawn around where they start; the statistics of each batch norm
    are those of a batch of random inputs, so that activations keep their size at any depth.

    Args:
        module: changed in place, and returned in evaluation mode.
        example: float inputs of the right shape.
        seed: of everything random here.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # statistics are averaged from here on
            norm.train()
        if norms:
            module(*(torch.randn((BATCH, *x.shape[1:]), generator=generator) for x in example))
        for norm in norms:
            # a channel that happens to be constant must not be blown up
            norm.running_var.clamp_(min=0.05 * float(norm.running_var.mean()))
    return module.eval()
