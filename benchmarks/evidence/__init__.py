"""Evidence that asking the network saves labels: experiments on real data, beside published figures."""

EXPERIMENTS = (
    "digits",
    "relevance",
    "regression",
    "regression_active",
    "map",
    "bandit",
    "text",
    "images",
    "repeats",
    "peers",
)
