"""Check the laws of minift on tiny models in seconds: run me after you changed the internals.

minift verify
"""

import textwrap
import time
import traceback
from pathlib import Path

import torch

from .errors import Error
from .laws import Broken
from .laws_pairs import LAWS  # all of them: those of laws.py, and its own
from .miniatures import FILES


def fault(check, family: str) -> str | None:
    """What shows that the law is broken, or None. A check that crashes shows it, too."""
    try:
        check(family)
    except Broken as e:
        return str(e)
    except Exception as e:
        here = Path(__file__).parent
        frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).is_relative_to(here)]
        return f"{type(e).__name__}: {e} ({Path(frames[-1].filename).relative_to(here)}, line {frames[-1].lineno})"


def main():
    """Print a line a law; raise `Error` with the names of those that are broken."""
    broken, started, threads = [], time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # on tensors so small, threads wait for each other
    for family, name, check in LAWS:
        shown = fault(check, family)
        print(f"{family:10}  {name + ' ':.<34} {'BROKEN' if shown else 'holds'}", flush=True)
        if shown:
            broken.append(f"{family}: {name}")
            words, look = check.__doc__.replace("FAMILY", FILES.get(family, family)).split("Look at ")
            for label, text in ("the law", words), ("shown by", shown), ("look at", look):
                text = textwrap.shorten(text, 500, placeholder=" …")
                print(textwrap.fill(text, 100, initial_indent=f"    {label:10}", subsequent_indent=" " * 14))
    torch.set_num_threads(threads)
    if broken:
        raise Error(f"{len(broken)} of {len(LAWS)} laws are broken: {'; '.join(broken)}", code=1)
    print(f"all {len(LAWS)} laws hold ({time.perf_counter() - started:.1f} s)")
