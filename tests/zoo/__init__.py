"""Real architectures from the packages of the registry, against plain PyTorch: ``make test-zoo``."""
