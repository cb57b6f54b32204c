"""Measuring: what a kernel, a model or a pool reaches here, beside what this machine allows and what plain PyTorch does."""
