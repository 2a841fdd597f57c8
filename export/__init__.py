"""Checkpoints to bundles: exact rewrites, unrolled graphs, the parity gate."""
