"""A recording in formats that other software reads; no socket, no torch."""
