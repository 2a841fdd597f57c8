"""How long an answer may take where a recording is played slowly. Pure."""


def budget_at(speed: float | None, tr_s: float, budget_s: float | None) -> float:
    """Give the deadline after the end of acquisition that a run is announced with.

    Played slower than it was recorded, a volume comes later than its TR says, and so
    may each answer.

    Args:
        speed: 1 is real time; None is as fast as it is taken.
        tr_s: Repetition time as it was recorded.
        budget_s: The deadline at real time; a TR where none is given.
    """
    budget_s = tr_s if budget_s is None else budget_s
    if speed is not None and speed < 1:
        budget_s += tr_s * (1 / speed - 1)
    return budget_s
