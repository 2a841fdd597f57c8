"""Names that others gave, in one line that a terminal only shows. Pure."""


def printable(text: str) -> str:
    """Write out what is no printable character: line ends, escapes, foreign bytes."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii")
        for one in text
    )
