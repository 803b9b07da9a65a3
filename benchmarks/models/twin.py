"""A compressed candidate in PyTorch: the original modules with the same effective weights, in float64.

Nothing of the graph is used: weights are put into the modules whose parameters they are named after, zero
where something is removed; what kernels see of their inputs, dropped layers, merged tokens and replaced
arithmetic are hooks of modules.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from passes.approximate import COEFFICIENTS, LIMIT
from passes.formats import BFLOAT16, FLOAT16, ROWS, Seen
from passes.sites import Linear
from targets.kernels.activation import short_exp_reference
from targets.kernels.attention_int8 import attention_int8_reference
from targets.kernels.linear_bf16 import bf16_bits, bf16_values
from targets.kernels.merge_tokens import merge_reference
from targets.kernels.quantize import quantize_reference
from targets.kernels.quantize_static import quantize_static_reference

Array = NDArray[Any]

IMPLEMENTATION = "twin"
"""Name of `attend` among the attention functions of ``transformers``."""

BLOCKS = (
    "BertLayer",
    "TransformerBlock",
    "GPT2Block",
    "ViTLayer",
    "Residual",
    "InvertedResidual",
)
"""Classes of modules that are sections: without one, its output is its input."""

ROUNDING = 3e-7
"""How far float32's sums in two orders are apart, of the largest value of a row: a few units in its last place."""

_LOWEST = -1e30
"""Added to the scores of tokens that are gone."""


class Twin:
    """A copy of a module in float64, to be changed as a candidate changes the model.

    Args:
        module: the original.
        weights: of the canonical model, by the names of the module's parameters.
        disturbed: seed of what rounding adds to each value before it becomes a code, as another order of
            sums would; None for nothing.
    """

    def __init__(
        self, module: nn.Module, weights: Mapping[str, Array], disturbed: int | None = None
    ) -> None:
        self._noise = None if disturbed is None else np.random.default_rng(disturbed)
        self._module = copy.deepcopy(module).double().eval()
        self._original = module
        self._weights = weights
        config = getattr(getattr(self._module, "inner", None), "config", None)
        if config is not None:
            config._attn_implementation = IMPLEMENTATION

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs in float64."""
        tensors = [torch.as_tensor(x) for x in inputs]
        given = [t.double() if t.is_floating_point() else t for t in tensors]
        with torch.no_grad():
            found = self._module(*given)
        outputs = found if isinstance(found, tuple) else (found,)
        return [t.numpy() for t in outputs]

    def put(self, site: Linear, changed: Mapping[str, Array]) -> None:
        """Give a layer the weight and the bias that the canonical model has, or changed ones.

        Raises:
            AssertionError: its weight is not that of the module, in no order that is known.
        """
        names = _thirds(site.weight)
        weights = np.split(self._of(site.weight, changed), len(names))
        biases: list[Array | None] = [None] * len(names)
        if site.bias is not None:
            biases = list(np.split(self._of(site.bias, changed), len(names)))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            norm = None if site.bias is None else self._owner(_thirds(site.bias)[0])
            if isinstance(norm, nn.BatchNorm2d):  # the canonical weight has taken it up
                self._replace(site.bias or "", nn.Identity())
            self._fill(name, weight, bias)

    def see(self, site: Linear, how: Seen) -> None:
        """Let a layer see its input as a kernel does."""

        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            order = np.arange(x.shape[-1])
            if isinstance(module, nn.Linear):
                order = self._order(site.weight, x.shape[-1])
            values = x.numpy()[..., order]
            seen = _seen(_rounded(values, self._noise), how)[..., np.argsort(order)]
            made = torch.as_tensor(seen).double()
            return (made.movedim(-1, 1) if isinstance(module, nn.Conv2d) else made,)

        for name in _thirds(site.weight):
            self._owner(name).register_forward_pre_hook(hook)

    def drop(self, weights: Sequence[str]) -> None:
        """Leave out the section that these weights are in."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            return args[0]

        self._block(weights).register_forward_hook(hook, with_kwargs=True)

    def attend_int8(self, weights: Sequence[str]) -> None:
        """Let the attention of a section multiply codes of 8 bits."""
        for module in self._block(weights).modules():
            module.twin_int8, module.twin_noise = True, self._noise

    def attend_short(self, weights: Sequence[str]) -> None:
        """Let the attention of a section take short exponentials."""
        for module in self._block(weights).modules():
            module.twin_short = True

    def approximate(self, weights: Sequence[str]) -> None:
        """Replace the GELU of a section by the polynomial."""

        def hook(module: nn.Module, args: tuple[torch.Tensor], output: Any) -> torch.Tensor:
            (x,) = args
            c = x.clamp(-LIMIT, LIMIT)
            value = torch.zeros_like(x)
            for coefficient in COEFFICIENTS:
                value = value * c * c + coefficient
            return x * (value * c + 0.5)

        found = [m for m in self._block(weights).modules() if "GELU" in type(m).__name__]
        assert len(found) == 1, "a section has one GELU"
        found[0].register_forward_hook(hook)

    def freeze(self, gain: str, scale: Sequence[float], shift: Sequence[float]) -> None:
        """Put ``x * scale + shift`` in the place of the norm that has this gain."""

        def hook(module: nn.Module, args: tuple[torch.Tensor], output: Any) -> torch.Tensor:
            return args[0] * torch.tensor(scale).double() + torch.tensor(shift).double()

        self._owner(gain).register_forward_hook(hook)

    def merge(self, keep: int, first: Sequence[str], later: Sequence[Sequence[str]]) -> None:
        """Leave ``keep`` tokens where they enter a layer, and give all of them back behind the last.

        Tokens that are gone stay in the tensors: attention does not see them.

        Args:
            first: weights of the layer.
            later: weights of each layer after it.
        """
        blocks = [self._block(weights) for weights in (first, *later)]
        leader: list[Array] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            x, *rest = args
            mask = rest[0] if rest else kwargs.get("attention_mask")
            tokens, bias, stands = _merged(x.numpy(), mask, keep)
            leader.append(stands)
            for block in blocks:
                for inner in block.modules():
                    inner.twin_bias = torch.as_tensor(bias)[:, None, None]
            return (torch.as_tensor(tokens), *rest), kwargs

        def behind(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            index = torch.as_tensor(leader[-1])[..., None].expand(output.shape)
            return output.gather(1, index)

        blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        blocks[-1].register_forward_hook(behind)

    def _of(self, name: str, changed: Mapping[str, Array]) -> Array:
        return np.asarray(changed.get(name, self._weights[name]), np.float64)

    def _fill(self, name: str, weight: Array, bias: Array | None) -> None:
        owner = self._owner(name)
        parameter = owner.get_parameter("weight")
        if type(owner).__name__ == "Conv1D":  # of GPT-2: [inputs, outputs]
            weight = weight.T
        elif isinstance(owner, nn.Linear):
            weight = weight[:, np.argsort(self._order(name, weight.shape[1]))]
        parameter.data = torch.as_tensor(np.ascontiguousarray(weight)).reshape(parameter.shape)
        if bias is not None:
            owner.bias = nn.Parameter(torch.as_tensor(bias))

    def _order(self, name: str, inputs: int) -> Array:
        """The inputs of a layer in the order of the canonical model: behind an image, channels last."""
        if "+k+v" in name or name not in self._weights:  # no image is before attention
            return np.arange(inputs)
        mine, original = self._weights[name], self._original.get_parameter(name).detach().numpy()
        for channels in range(inputs, 0, -1):
            side = round((inputs / channels) ** 0.5)
            if channels * side * side == inputs:
                order = np.arange(inputs).reshape(channels, side, side).transpose(1, 2, 0).ravel()
                if np.allclose(original[:, order], mine, rtol=1e-5, atol=1e-7):
                    return order
        raise AssertionError(f"{name} is not a weight of the module")

    def _owner(self, name: str) -> nn.Module:
        return self._module.get_submodule(name.rpartition(".")[0])

    def _replace(self, name: str, new: nn.Module) -> None:
        path, _, last = name.rpartition(".")[0].rpartition(".")
        setattr(self._module.get_submodule(path), last, new)

    def _block(self, weights: Sequence[str]) -> nn.Module:
        """The smallest module of `BLOCKS` that has all these weights."""
        paths = [name.split(".") for name in weights]
        common = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        modules = dict(self._module.named_modules())
        while common:
            module = modules.get(".".join(common))
            if type(module).__name__ in BLOCKS and module is not None:
                return module
            common.pop()
        raise AssertionError(f"no section holds {', '.join(weights)}")


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``transformers`` on [N, heads, S, D] that reads what a twin says of its module."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = getattr(module, "twin_bias", attention_mask)
    if getattr(module, "twin_int8", False):
        batch, heads, seq, _ = query.shape
        parts = torch.stack([t.transpose(1, 2) for t in (query, key, value)], 2)
        qkv = _rounded(parts.reshape(batch, seq, -1).numpy(), module.twin_noise)
        added = None if bias is None else np.maximum(bias.numpy(), _LOWEST).astype(np.float32)
        mixed = torch.as_tensor(attention_int8_reference(qkv, added, heads, scale)).double()
        return mixed.reshape(batch, seq, heads, -1), None
    scores = query @ key.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    if getattr(module, "twin_short", False):
        powers = short_exp_reference((scores - scores.amax(-1, keepdim=True)).numpy())
        shares = torch.as_tensor(powers / powers.sum(-1, keepdims=True))
        return (shares @ value).transpose(1, 2), None
    return (torch.softmax(scores, -1) @ value).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


def _thirds(name: str) -> list[str]:
    """The parameters that a canonical weight or bias is made of: three for a joined one."""
    first, joined, _ = name.partition("+k+v")
    if not joined:
        return [name]
    path, _, last = first.rpartition(".")
    outer, _, module = path.rpartition(".")
    names = [
        module.replace("query", p).replace("q_", f"{p[0]}_") for p in ("query", "key", "value")
    ]
    return [f"{outer}.{n}.{last}" for n in names]


def _rounded(values: Array, noise: np.random.Generator | None) -> NDArray[np.float32]:
    """Values [..., channels] in float32, as another order of the sums that they are would round them."""
    if noise is not None:
        by = noise.uniform(-ROUNDING, ROUNDING, values.shape)
        values = values + by * np.abs(values).max(-1, keepdims=True)
    return values.astype(np.float32)


def _seen(x: NDArray[np.float32], how: Seen) -> Array:
    """What a kernel sees of x [..., channels]."""
    if how == BFLOAT16:
        return bf16_values(bf16_bits(x))
    if how == FLOAT16:
        return x.astype(np.float16).astype(np.float64)
    if how == ROWS:
        return quantize_reference(x).dequantized()
    scale, zero = np.array(how.scale, np.float64), np.array(how.zero, np.float64)
    return (quantize_static_reference(x, how.scale, how.zero) - zero) * scale


def _merged(x: Array, mask: torch.Tensor | None, keep: int) -> tuple[Array, Array, Array]:
    """Tokens [N, S, C] after merging, what attention adds to their scores [N, S], and who stands for whom."""
    batch, seq, _ = x.shape
    before = np.zeros((batch, seq)) if mask is None else mask[:, 0, 0].numpy()
    tokens, bias = x.copy(), np.full((batch, seq), _LOWEST)
    leader = np.zeros((batch, seq), np.int64)
    for n in range(batch):
        found = merge_reference(x[n], before[n], np.ones(seq), keep)
        tokens[n, found.kept], bias[n, found.kept] = found.y, found.bias
        leader[n] = found.kept[found.place]
    return tokens, bias, leader
