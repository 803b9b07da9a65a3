"""Attention whose two products run on 8-bit codes, quantised in its kernel: nothing to solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.int8 import lacks_dot_product
from passes.lower_attention import with_core
from passes.model import Model
from passes.report import Change, Refusal, Report
from targets.kernels.attention_int8 import attention_int8

if TYPE_CHECKING:
    from passes.sites import Attention
    from targets.target import Target

NAME = "int8_attention"


@dataclass(frozen=True)
class Int8AttentionConfig:
    """What is offered.

    Attributes:
        needs_dot_product: refuse it on targets that lack an instruction for int8 dot products; False
            offers it all the same, and leaves the judgement to measurement.
    """

    needs_dot_product: bool = True


def quantize_attention(model: Model, attention: Attention) -> tuple[Model, Report]:
    """Give an attention site the kernel with int8 products.

    What the kernel computes is told in `targets.kernels.attention_int8`. The projections before and
    after it stay as they are.

    Args:
        model: canonical; heads of the site may be pruned already, its QKV projection must still be
            a plain linear layer.
        attention: the site.

    Raises:
        PassError: the site is not in the graph in its canonical form.
    """
    written = with_core(model, attention, attention_int8, NAME)
    return written, Report(NAME, (Change(attention.name, NAME, "int8 products"),))


def choices(
    site: Attention, target: Target, config: Int8AttentionConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """The one setting ``{}`` where int8 products are offered for a site, and what is refused."""
    config = config or Int8AttentionConfig()
    if config.needs_dot_product and (lack := lacks_dot_product(target)) is not None:
        return [], [Refusal(site.name, NAME, lack)]
    if not site.plain:
        return [], [Refusal(site.name, NAME, "it is causal, or not float32")]
    return [{}], []
