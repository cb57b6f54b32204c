"""The calls of PyTorch that make a forward pass stochastic: the tables of them, and how each is met as it happens."""
