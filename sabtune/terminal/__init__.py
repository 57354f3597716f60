"""What a terminal shows: the live table, the log of trials, status, summary and results."""
