"""Frozen visual backbones, and the resumable computation of every picture's z_v."""
