"""Volumes in, answers out, over ZeroMQ."""
