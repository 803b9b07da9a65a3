"""Architectures that the tests import small and the benchmarks compile at full size.

Each function gives a module in evaluation mode with random weights: right for latency, shapes and
numerical parity, and for nothing that speaks of accuracy.
"""
