"""Other ways to decode, and ours, behind one small interface.

A peer learns from a `contract.Lesson` and answers the same questions as the others;
`docs/peers.md` has what came of it.
"""
