"""Triton kernels for GPUs. The modules of kernels, and Triton with them, are imported at first use."""
