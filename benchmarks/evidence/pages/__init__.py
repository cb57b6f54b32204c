"""What is told of each experiment: its rows in the table of all, its page and its picture."""
