"""Whether a run goes on: with the same pool, settings and code, on the same hardware."""
