"""Compiled graphs behind one small interface, one file per library."""
