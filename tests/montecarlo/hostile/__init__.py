"""Models that try to get wrong numbers out of the engine, each with the outcome that its user wants."""
