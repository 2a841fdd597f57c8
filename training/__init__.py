"""Training of NeuroVAE and the flow; writes checkpoints."""
