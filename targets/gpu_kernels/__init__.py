"""Tuning spaces of the kernels for GPUs: work groups and work items instead of threads and vector registers."""
