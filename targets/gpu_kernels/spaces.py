"""Which tuning space a kernel has on a GPU."""

from __future__ import annotations

from targets.gpu_kernels.attention import attention_space
from targets.gpu_kernels.default import default_schedule
from targets.gpu_kernels.depthwise import depthwise
from targets.gpu_kernels.pattern import pattern_space
from targets.gpu_kernels.product import products
from targets.gpu_kernels.rows import row_space
from targets.kernels import (
    attention,
    conv,
    conv_bf16,
    conv_depthwise,
    conv_fp16,
    conv_int8,
    conv_pattern,
    conv_sparse,
    conv_sparse_int8,
    linear,
    linear_bf16,
    linear_fp16,
    linear_int8,
    linear_sparse,
    linear_sparse_int8,
    linear_weight_only,
    norm,
    quantize,
    softmax,
)
from targets.kernels.space import Space, Spaces

_PRODUCTS = (
    linear, linear_sparse, linear_bf16, linear_fp16, linear_int8, linear_sparse_int8, linear_weight_only,
    conv, conv_sparse, conv_bf16, conv_fp16, conv_int8, conv_sparse_int8,
)  # fmt: skip

_BY_FAMILY: dict[str, Space] = {
    **{family.FAMILY_NAME: products for family in _PRODUCTS},
    conv_depthwise.FAMILY_NAME: depthwise,
    conv_pattern.FAMILY_NAME: pattern_space,
    attention.FAMILY_NAME: attention_space,
    norm.FAMILY_NAME: row_space,
    softmax.FAMILY_NAME: row_space,
    quantize.FAMILY_NAME: row_space,
}

SPACES = Spaces(_BY_FAMILY, default_schedule)
"""For targets of kind ``opencl``."""
