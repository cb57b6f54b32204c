"""The labeling page: the items of a selection in a browser on this machine, each label durable when it is given."""
