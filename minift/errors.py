"""The one error a user can cause, and the hint that goes with a misspelt name."""

from difflib import get_close_matches


class Error(Exception):
    """What went wrong, said once: the file, the place in it, the value, the way out.

    `code` is the exit status of the command line: 2 for usage and data (the default),
    1 for what failed while running.
    """

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


def nearest(word: str, known) -> str:
    """`; did you mean 'label'?` if one of `known` is close to `word`, else nothing."""
    close = get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
