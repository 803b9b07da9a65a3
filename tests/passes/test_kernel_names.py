"""Names of kernels."""

import pytest

from passes.kernel_names import readable


@pytest.mark.parametrize(
    ("unique", "name"),
    [
        ("fused_linear1_add_gelu12", "linear_add_gelu"),
        ("linear_int83", "linear_int8"),
        ("fused_conv2d2_add", "conv2d_add"),
        ("layer_norm", "layer_norm"),
        ("fused_linear_fp161_add_round_to_bf162", "linear_fp16_add_round_to_bf16"),
    ],
)
def test_readable_names(unique, name):
    assert readable(unique) == name
