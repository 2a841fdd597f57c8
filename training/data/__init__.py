"""Prepared trials on disk: written once, mapped into memory by training.

`manifest.py` says what is in a folder, `writer.py` writes it and goes on after an
interruption, `store.py` opens it. `nsd.py` and `bids.py` make them from raw files.
"""
