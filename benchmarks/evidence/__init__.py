"""Evidence that asking the network saves labels: experiments on real data, beside published figures."""

EXPERIMENTS = ("digits", "repeats", "relevance", "regression", "map", "bandit", "images", "text")
