"""Keep the user's model as it was: restore its state after every pass, and let in one thread at a time."""
