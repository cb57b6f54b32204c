"""Benchmarks of kernels, models and pools, compared with this machine's ceilings and with plain PyTorch."""
