"""Times of day as DICOM writes them. Pure."""

import re

_TIME = re.compile(r"(\d\d)(\d\d)(\d\d)(\.\d{1,6})?")
_DATE_TIME = re.compile(r"\d{8}(\d{6}(?:\.\d{1,6})?)(?:[+-]\d{4})?")


def seconds_of_day(text: str) -> float | None:
    """Read a TM or DT value (PS3.5, table 6.2-1) to the second or finer.

    Returns:
        None where it is empty, coarser, or no time.
    """
    moment = _DATE_TIME.fullmatch(text)
    time = _TIME.fullmatch(moment[1] if moment else text)
    if time is None:
        return None
    hours, minutes, seconds = int(time[1]), int(time[2]), int(time[3])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return 3600.0 * hours + 60.0 * minutes + seconds + float(time[4] or 0)
