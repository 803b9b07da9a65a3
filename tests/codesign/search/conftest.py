"""A small encoder as tables."""

import pytest

from codesign.candidate import Choice
from codesign.search import Group, Layer, Option, Tables


def option(site, name, seconds, error):
    choices = (Choice(site, name),) if name else ()
    return Option(choices, name or "dense", seconds, error)


@pytest.fixture
def encoder():
    """Twelve groups in six layers: dense, int8 and sparse each."""

    def build(int8=1.0, sparse=1.0, slow_sparse=False):
        layers = []
        for i in range(6):
            groups = []
            for j, size in enumerate((1.0, 2.0)):
                name = f"layer{i}.{('attention', 'ffn')[j]}"
                groups.append(
                    Group(
                        name,
                        (
                            option(name, "", 1e-3 * size, 0.0),
                            option(name, "int8", 3e-4 * size, 0.001 * (i + 1) * int8),
                            option(
                                name,
                                "sparse",
                                (1.1e-3 if slow_sparse else 5e-4) * size,
                                0.004 * (6 - i) * sparse,
                            ),
                        ),
                    )
                )
            drop = option(f"layer{i}", "drop", 0.0, 0.2)
            layers.append(Layer(f"layer{i}", tuple(groups), drop, 5e-5))
        return Tables(tuple(layers), 2e-4)

    return build
