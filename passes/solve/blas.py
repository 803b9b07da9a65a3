"""BLAS on one thread while a solver runs.

The solvers make thousands of small matrix operations through two copies of OpenBLAS (NumPy's and
SciPy's). With a thread pool each, which spin while they wait, they were up to 60 times slower than
on one thread when other processes were busy. One thread also makes results repeatable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once is enough


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: run ``function`` with BLAS on one thread, then restore the number before."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
