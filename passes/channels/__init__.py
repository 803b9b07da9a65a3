"""Structured channel pruning of any canonical model, over a dependency graph (Fang et al. 2023).

- ``graph``, ``rules``, ``reshapes``: which channels are the same channel, operator by operator.
- ``groups``: coupled groups of channels, and what can never be pruned.
- ``prune``: what is offered, and the rewrite.
- ``consumers``, ``importance``, ``removal``, ``refit``: which units to keep, and their consumers refitted.
- ``macs``, ``budget``: widths of all groups for a share of the work.
"""
