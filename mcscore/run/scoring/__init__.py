"""Who scores the spans of a run: this process, or workers that it starts. Nothing here writes to the run."""
