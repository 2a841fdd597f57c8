"""The papers' metrics: images, retrieval, voxels, each beside its honest interval.

What each one means, where it comes from and when it is absent: docs/metrics.md.
"""
