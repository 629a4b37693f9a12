"""Little labels, much text: does learning a domain's hidden words first help a classifier that has few labels?

    python tests/bench/two_stages.py rotten_tomatoes=FOLDER ag_news=FOLDER

Each folder has train.tsv, validation.tsv and test.tsv with the columns text and label. Stage one is `finetune mlm` on
all training texts without their labels; stage two `finetune classify` with 64, 256 and 1,000 labels (a sample drawn by
the seed), from bert-nano and from stage one's folder, seeds 0 to 4. The best epoch is chosen by 200 rows of the
validation file. --model M takes another BERT, --seeds N fewer seeds. Prints a line a run, then the table.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import minift
from minift import data

LABELS = {64: 20, 256: 10, 1000: 4}  # so many labels, so many epochs


def part(folder: str, name: str) -> list[dict]:
    return data.read(Path(folder) / f"{name}.tsv").rows


def main(folders: dict[str, str], model: str, seeds: int, first: dict, work: Path):
    for name, folder in folders.items():
        rows, test, valid = (part(folder, file) for file in ("train", "test", "validation"))
        valid = random.Random(0).sample(valid, 200)
        domain = work / f"{name}-mlm"
        texts = [row["text"] for row in rows]
        learned = minift.finetune("mlm", model=model, train=texts, batch_size=8, out=domain, **first)
        before, after = (learned.metrics[key]["perplexity"] for key in ("valid_before", "valid"))
        print(f"{name}: masked perplexity {before:,.0f} before, {after:,.0f} after", flush=True)
        table = []
        for count, times in LABELS.items():
            found = {"classify": [], "mlm, classify": []}
            for seed in range(seeds):
                chosen = random.Random(seed).sample(rows, count)
                for way, start in zip(found, (model, domain), strict=True):
                    settings = {"epochs": times, "lr": 3e-4, "seed": seed, "out": work / f"{name}-{count}-{seed}-{way}"}
                    run = minift.finetune("classify", model=start, train=chosen, valid=valid, test=test, **settings)
                    found[way].append(100 * run.metrics["test"]["accuracy"])
                    print(f"{name} {count} seed {seed} {way}: {found[way][-1]:.1f}", flush=True)
            differences = [b - a for a, b in zip(*found.values(), strict=True)]
            table.append([name, f"{count:,}", *map(spread, (*found.values(), differences))])
        print("\n| data | labels | classify | mlm, then classify | difference |\n| --- | ---: | ---: | ---: | ---: |")
        print("\n".join(f"| {' | '.join(cells)} |" for cells in table), flush=True)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="bert-nano")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5, help="of stage one")
    parser.add_argument("--precision", default="auto", help="of stage one")
    given = parser.parse_args()
    folders = dict(pair.split("=", 1) for pair in given.folders)
    with tempfile.TemporaryDirectory() as work:
        first = {"epochs": given.epochs, "precision": given.precision}
        main(folders, given.model, given.seeds, first, Path(work))
