"""What keeps the user's model as it was: its state put back after every pass, and one thread at a time."""
