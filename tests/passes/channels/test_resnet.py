"""ResNet-50 at half its work computes what the same pruning makes of the PyTorch modules by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from benchmarks.models.resnet import Residual, resnet50
from benchmarks.models.training import as_trained
from codesign.frontend.torch_export import from_module
from codesign.pipeline import canonical
from passes.channels.budget import most_important, ranked_widths
from passes.channels.groups import find_groups
from passes.channels.importance import magnitude
from passes.channels.macs import macs
from passes.channels.prune import prune_channels
from targets.target import find

TARGET = replace(find("x86-64-v4"), vector_bits=128)  # blocks of 8, for a narrow network


def cut(layers, inputs, outputs):
    """Narrow a convolution with its batch norm to these channels."""
    conv, norm = layers[0], layers[1]
    conv.weight = torch.nn.Parameter(conv.weight[outputs][:, inputs])
    norm.weight, norm.bias = (torch.nn.Parameter(p[outputs]) for p in (norm.weight, norm.bias))
    norm.running_mean, norm.running_var = norm.running_mean[outputs], norm.running_var[outputs]


def pruned_by_hand(module, kept):
    """A copy of a ResNet of bottlenecks; ``kept`` has the outputs of each convolution that stay."""
    module = copy.deepcopy(module)
    stream = kept["features.0.0"]
    cut(module.features[0], torch.arange(3), stream)
    for at, block in enumerate(module.features):
        if not isinstance(block, Residual):
            continue
        first, second = (kept[f"features.{at}.layers.{i}.0"] for i in (0, 1))
        joined = len(block.shortcut) > 0 if isinstance(block.shortcut, torch.nn.Sequential) else 0
        after = kept[f"features.{at}.layers.2.0"] if joined else stream
        cut(block.layers[0], stream, first)
        cut(block.layers[1], first, second)
        cut(block.layers[2], second, after)
        if joined:
            cut(block.shortcut, stream, after)
        stream = after
    head = module.head[0]
    head.weight = torch.nn.Parameter(head.weight[:, stream])
    return module


def test_half_the_work_of_resnet50(evaluate):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 33, 35)
    module = as_trained(resnet50(width=0.25, classes=7), x)
    model = canonical(from_module(module, (x,), "resnet50", {}).model)
    groups, refusals = find_groups(model)
    assert len(groups) == 1 + 4 + 2 * 16  # the stem, a stream for each stage, two inside each block
    assert [r.site for r in refusals] == ["head.0.weight.channels"]
    importance = {g: magnitude(model, g) for g in groups}
    widths = ranked_widths(model, importance, 0.5, TARGET)
    assert all(width % TARGET.block == 0 for width in widths.values())
    keep = {g: most_important(importance[g], width) for g, width in widths.items()}
    pruned, _ = prune_channels(model, keep)
    assert 0.45 < macs(pruned) / macs(model) <= 0.5
    names = {g.name.removesuffix(".weight.channels"): torch.as_tensor(k) for g, k in keep.items()}
    with torch.no_grad():
        wanted = pruned_by_hand(module, names).double()(x.double()).numpy()
        dense = module.double()(x.double()).numpy()
    (got,) = evaluate(pruned, x.numpy())
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.abs(got - dense).max() > 1e-2 * np.abs(dense).max()
