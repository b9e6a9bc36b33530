"""Kernels in Triton, for GPUs. Triton is imported with the modules of kernels, at their first use."""
