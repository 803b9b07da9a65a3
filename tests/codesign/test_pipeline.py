"""Real architectures through the whole compiler, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from codesign.frontend import load_module
from codesign.kernels import kernels
from codesign.pipeline import canonical, compile_model
from codesign.simulate import Simulator, Variant
from passes.find_sites import find_sites
from targets.target import find

LAYER = ["attention", "layer_norm", "layer_norm"]
LAYER += ["linear_add", "linear_add_add", "linear_add_add", "linear_add_gelu"]


class Hidden(nn.Module):
    """Only the last hidden state of a model of transformers."""

    def __init__(self, net: nn.Module, *names: str) -> None:
        super().__init__()
        self.net = net
        self.names = names

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.net(**dict(zip(self.names, args, strict=True))).last_hidden_state


def bert():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=100,
        vocab_size=90, max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    ids, mask = torch.randint(0, 90, (2, 17)), torch.ones(2, 17, dtype=torch.int64)
    mask[1, 9:] = 0
    return Hidden(BertModel(config, False), "input_ids", "attention_mask"), (ids, mask)


def vit():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=100,
        image_size=32, patch_size=8, attn_implementation="eager",
    )  # fmt: skip
    return Hidden(ViTModel(config, False), "pixel_values"), (torch.randn(2, 3, 32, 32),)


def encoder():
    layer = nn.TransformerEncoderLayer(48, 3, 100, activation="gelu", batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for matrix in (p for p in net.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.15)  # the layers are copies of each other otherwise
    return net, (torch.randn(2, 17, 48),)


@pytest.fixture(scope="module", params=[bert, vit, encoder], ids=lambda make: make.__name__)
def imported(request):
    torch.manual_seed(0)
    net, args = request.param()
    net.eval()
    return net, args, canonical(load_module(net, args).model)


def test_parity_and_kernels(imported):
    net, args, model = imported
    lowered, executable = compile_model(model, find("host", threads=2))
    tensors = [tvm.runtime.tensor(a.numpy()) for a in args]
    tensors += [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors)[0].numpy()
    with torch.no_grad():
        wanted = net(*args).numpy()
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    names = [k.name for k in kernels(lowered) for _ in range(k.count)]
    for name in set(LAYER):
        assert names.count(name) >= 2 * LAYER.count(name)
    assert len(names) <= 2 * len(LAYER) + 8


def test_simulator_sees_what_pytorch_does(imported):
    net, args, model = imported
    sites = find_sites(model)
    assert len(sites.layers) == 2
    inputs = dict(zip((s.name for s in model.inputs), (a.numpy() for a in args), strict=True))
    mask = model.inputs[1].name if len(args) == 2 else None
    simulator = Simulator(model, sites, find("host"), [inputs], row_mask=mask)
    with torch.no_grad():
        wanted = net(*args).numpy()
    stream = simulator.dense_stream("layer1")
    np.testing.assert_allclose(simulator.outputs(stream)[0][0], wanted, atol=1e-5)

    down = sites.layers[1].ffn.down
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    weight = model.weights[down.weight]
    (module,) = [m for m in linears if np.array_equal(m.weight.detach(), weight)]
    seen = []
    hook = module.register_forward_hook(lambda m, x, y: seen.append(x[0].numpy().astype(float)))
    with torch.no_grad():
        net(*args)
    hook.remove()
    rows = seen[0].reshape(-1, seen[0].shape[-1])
    if mask is not None:
        rows = rows[args[1].numpy().ravel() != 0]
    gram = simulator.grams(stream, down.name)
    np.testing.assert_allclose(gram.xx, rows.T @ rows, atol=1e-5 * np.abs(gram.xx).max())

    with torch.no_grad():
        module.weight *= 0.5
        changed = net(*args).numpy()
        module.weight *= 2
    stream = simulator.advance(stream, Variant({down.weight: weight * np.float32(0.5)}))
    np.testing.assert_allclose(simulator.outputs(stream)[0][0], changed, atol=1e-5)
