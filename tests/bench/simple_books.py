"""Which books are simple enough for a small model to learn from first: prints their paths, the simplest first.

    python tests/bench/simple_books.py FOLDER … > books.txt
    minift pretrain lm --text $(cat books.txt) …

A book's score is the mean number of words in a sentence, by 20, plus 8 times the share of its words that are not among
the 3,000 commonest of all the books; up to 1.655 it is simple. gpt2-nano was pre-trained on 245 books chosen so.
"""

import re
import sys
from collections import Counter
from pathlib import Path

LIMIT, COMMON = 1.655, 3000


def chosen(folders: list[str]) -> list[Path]:
    words, sentences = {}, {}
    for path in sorted(path for folder in folders for path in Path(folder).glob("*.txt")):
        text = path.read_text("utf-8")
        words[path] = Counter(re.findall(r"[a-z']+", text.lower()))
        sentences[path] = max(len(re.findall(r"[.!?]+[\"”’']?\s", text)), 1)
    common = {word for word, _ in sum(words.values(), Counter()).most_common(COMMON)}
    scores = {}
    for path, counts in words.items():
        rare = sum(n for word, n in counts.items() if word not in common)
        scores[path] = counts.total() / sentences[path] / 20 + 8 * rare / counts.total()
    return sorted((path for path in scores if scores[path] <= LIMIT), key=scores.get)


if __name__ == "__main__":
    print(*chosen(sys.argv[1:]), sep="\n")
