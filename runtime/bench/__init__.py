"""Measuring latency without lies; what decides here holds no clock of its own."""
