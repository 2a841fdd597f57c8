"""One file for each way out of a scanner."""
