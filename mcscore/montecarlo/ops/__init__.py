"""The calls of PyTorch that make a forward pass stochastic: their tables, and how each is intercepted."""
