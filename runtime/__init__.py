"""Low-latency decoding and encoding without torch."""
