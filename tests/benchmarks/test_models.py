"""The architectures of the benchmarks are those of the papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.models.efficientnet import efficientnet_b0
from benchmarks.models.mobilenet import V3_SMALL, mobilenet_v2, mobilenet_v3
from benchmarks.models.resnet import resnet18, resnet50
from benchmarks.models.squeezenet import squeezenet
from benchmarks.models.training import as_trained
from benchmarks.models.vgg import vgg16


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (mobilenet_v2, 3_504_872),
        (mobilenet_v3, 5_483_032),
        (lambda: mobilenet_v3(blocks=V3_SMALL, head=1024), 2_542_856),
        (efficientnet_b0, 5_288_548),
        (resnet18, 11_689_512),
        (resnet50, 25_557_032),
        (vgg16, 138_357_544),
        (squeezenet, 1_235_496),
    ],
)
def test_full_size_has_the_published_number_of_parameters(
    build: Callable[[], torch.nn.Module], parameters: int
) -> None:
    with torch.device("meta"):
        module = build()
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert not module.training


def test_statistics_keep_activations_in_size_and_weights_apart() -> None:
    torch.manual_seed(0)
    module = as_trained(resnet18(0.125, 10), torch.zeros(1, 3, 64, 64))
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(len(set(n.running_var.tolist())) > 1 for n in norms)
    assert all(len(set(n.weight.tolist())) > 1 for n in norms)
    with torch.no_grad():
        output = module(torch.randn(2, 3, 64, 64))
    assert 0.01 < float(output.std()) < 100
    assert not module.training
