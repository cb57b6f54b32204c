"""From the scores of a run to the items to label: candidates, what methods need of them, limits, the file."""
