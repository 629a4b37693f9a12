"""The command line: one subcommand, one function. Flags come from the dataclasses of settings.py; torch is imported
only when a command computes, so that --help is instant."""

import argparse
import json
import os
import re
import sys
import tomllib
import traceback
from dataclasses import fields

from . import settings
from .errors import Error, nearest


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """argparse's message, with the nearest flag or choice where one was unknown."""
        known = [name for action in self._actions for name in (*action.option_strings, *(action.choices or ()))]
        if wrong := re.search(r"unrecognized arguments:.*?(--[\w-]+)|invalid choice: '(.*?)'", message):
            message += nearest(wrong[1] or wrong[2], known)
        self.exit(2, f"minift: {message}\n")


def main(argv: list[str] | None = None):
    parser = Parser(
        prog="minift",
        description="Fine-tune published language models, encoders and encoder-decoders; read how.",
        epilog="example: minift finetune classify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for add in (finetune, compare, pretrain, predict, evaluate, generate, download, check, ls, verify):
        add(commands)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        commands.choices[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    for stream in (sys.stdout, sys.stderr):  # a console that has no "…" shows its code instead of failing
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")
    try:
        args.run(args)
        sys.stdout.flush()
    except Error as e:
        if args.debug:
            traceback.print_exc()
        print(f"minift: {e}", file=sys.stderr)
        sys.exit(e.code)
    except KeyboardInterrupt:
        print("minift: interrupted; no model was saved", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough; what is left to say must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def command(commands, name: str, help: str, example: str, run) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def add_flags(parser, cls, leave=()):
    """A flag for each field of a settings class, but those to leave out; what is not given stays out of the
    namespace."""
    for f in fields(cls):
        if f.name in leave:
            continue
        kind = settings.plain(f.type)
        text = f.metadata["help"] + ("" if f.default is None or f.default is False else f" (default {f.default})")
        more = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": f.metadata.get("metavar")}
        if kind is list:
            more = {"nargs": "+", "metavar": f.metadata["metavar"]}
        if "choices" in f.metadata:
            more = {"choices": f.metadata["choices"]}
        parser.add_argument("--" + f.name.replace("_", "-"), dest=f.name, default=argparse.SUPPRESS, help=text, **more)


def complain(line: str):
    """Beside what a program may read from standard output."""
    print(line.strip(), file=sys.stderr, flush=True)


def given(args, cls) -> dict:
    return {f.name: getattr(args, f.name) for f in fields(cls) if hasattr(args, f.name)}


def finetune(commands):
    def run(args):
        values = given(args, settings.Finetune)
        if args.config:
            values = from_file(args.config, args.task) | values
        from . import runs

        runs.finetune(args.task, say=lambda line: print(line, flush=True), **values)

    parser = command(
        commands,
        "finetune",
        "Fine-tune a pre-trained model on a task; with nothing but TASK, on data and a model that come with minift.",
        "minift finetune classify --train train.csv --test test.csv --epochs 3",
        run,
    )
    parser.add_argument(
        "task",
        metavar="TASK",
        help="classify (columns text, or text_a and text_b, and label), translate (src, tgt), lm, mlm, denoise (text), "
        "answer (SQuAD's .json, or question, context, answers)",
    )
    parser.add_argument(
        "--config", metavar="F.toml", help="settings from a file, a run's config.toml; flags go before it"
    )
    add_flags(parser, settings.Finetune)


def compare(commands):
    def run(args):
        values = given(args, settings.Finetune)
        from .compare import compare

        compare(args.task, args.models, values.pop("tune"), say=lambda line: print(line, flush=True), **values)

    parser = command(
        commands,
        "compare",
        "Fine-tune several models, each in several ways, on the same rows; one table of them all, also as CSV and SVG.",
        "minift compare classify --models kim-cnn,bert-nano --tune head,all --train train.tsv --test test.tsv",
        run,
    )
    parser.add_argument("task", metavar="TASK", help="as for finetune")
    for flag, default, what in ("--models", settings.MODELS, "models"), ("--tune", settings.TUNE, "ways to tune each"):
        parser.add_argument(flag, metavar="A,B", default=default, help=f"{what}, with commas (default {default})")
    add_flags(parser, settings.Finetune, leave=("model", "tune"))


def pretrain(commands):
    def run(args):
        values = given(args, settings.Pretrain)
        from . import pretraining

        pretraining.pretrain(args.task, say=lambda line: print(line, flush=True), **values)

    parser = command(
        commands,
        "pretrain",
        "Train a vocabulary and a model from nothing; stopped and started again, it goes on.",
        "minift pretrain lm --text books/*.txt --out runs/mine --tokens 20e6",
        run,
    )
    parser.add_argument(
        "task", metavar="TASK", help="lm: a GPT-2; lstm: an AWD-LSTM; mlm: a BERT; denoise, translate: a BART"
    )
    add_flags(parser, settings.Pretrain)


def predict(commands):
    def run(args):
        if (args.text is None) == (args.input is None):
            raise Error("predict needs either a TEXT or --input F")
        from . import data, files, use

        asked = {"question": args.text, "context": args.context}
        rows = data.read(args.input).rows if args.input else [asked if args.context else {"text": args.text}]
        predictions = use.predict(args.model, args.input or rows, say=complain, **given(args, settings.Prompt))
        found = [row | prediction for row, prediction in zip(rows, predictions, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        if args.output:
            files.write_text(args.output, lines)
            print(f"{len(found)} predictions in {args.output}")
        else:
            print(lines, end="")

    parser = command(
        commands,
        "predict",
        "What a classifier or a prompted language model says of a text, how a translator puts it, what a text answers; "
        "or of all rows of a file.",
        'minift predict runs/classify-1 "Not bad at all."',
        run,
    )
    parser.add_argument("model", metavar="MODEL", help="a run's folder, or a published model")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="one text")
    parser.add_argument("--context", metavar="T", help="the text to find the answer in, where TEXT is a question")
    parser.add_argument("--input", "--data", metavar="F", help="rows: .tsv, .csv, .jsonl, .json or .txt")
    parser.add_argument(
        "--output", metavar="F.jsonl", help="an object a row: its columns, prediction, scores (none: print)"
    )
    add_flags(parser, settings.Prompt)


def evaluate(commands):
    def run(args):
        from . import use

        prompting = given(args, settings.Prompt)
        print(json.dumps(use.evaluate(args.model, args.data, args.task, say=complain, **prompting), indent=2))

    parser = command(
        commands,
        "evaluate",
        "The metrics of a fine-tuned or prompted model on labelled rows, as JSON.",
        "minift evaluate runs/classify-1 --data test.tsv",
        run,
    )
    parser.add_argument("model", metavar="MODEL", help="as for predict")
    parser.add_argument("--task", metavar="TASK", help="checked against the model's")
    parser.add_argument("--data", metavar="F", required=True, help="rows with labels")
    add_flags(parser, settings.Prompt)


def generate(commands):
    def run(args):
        values = given(args, settings.Generate)
        prompt = values.pop("prompt", settings.Generate.prompt)
        from . import generation, pretrained

        model, tokenizer = pretrained.load(args.model)
        print(prompt + generation.generate(model, tokenizer, prompt, **values))

    parser = command(
        commands,
        "generate",
        "Continue a text with a language model, or answer it with an encoder-decoder.",
        'minift generate gpt2-nano --prompt "The dog" --max-new-tokens 30',
        run,
    )
    parser.add_argument("model", metavar="MODEL", help="an embedded model, a folder, or a model of the Hub")
    add_flags(parser, settings.Generate)


def download(commands):
    def run(args):
        from . import fingerprints, hub, pretrained

        folder = hub.download(args.name)
        print(folder, flush=True)
        if known := fingerprints.compare(args.name, folder, lambda: pretrained.load(folder)):
            print(known, file=sys.stderr)  # stdout is the folder alone, for scripts

    help = "Bring a model of the Hugging Face Hub into its cache on this machine, as it is there now; print its folder."
    parser = command(commands, "download", help, "minift download gpt2", run)
    parser.add_argument("name", metavar="NAME", help="gpt2, openai-community/gpt2, or with a version gpt2@main")


def check(commands):
    def run(args):
        from . import pretrained

        print(pretrained.check(args.model))

    help = "Load a model, say what became of every key of its weights, and compare it with published figures."
    parser = command(commands, "check", help, "minift check bert-nano", run)
    parser.add_argument("model", metavar="MODEL", help="an embedded model, a folder, or a model of the Hub")


def ls(commands):
    def run(args):
        from . import hub

        for line in hub.listing():
            print(line)

    command(commands, "ls", "The models and data sets that come with minift.", "minift ls", run)


def verify(commands):
    def run(args):
        from . import verify

        verify.main()

    help = "Check the laws on tiny models: run it after you changed the internals."
    command(commands, "verify", help, "minift verify", run)


def from_file(path: str, task: str) -> dict:
    """The settings in a TOML file, each checked here, where the file can still be named."""
    from .files import read_text

    try:
        values = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as e:
        raise Error(f"{path}: not valid TOML: {e}") from None
    if values.pop("task", task) != task:
        raise Error(f"{path}: is for another task than {task}; see its line task = …")
    try:
        settings.make(settings.Finetune, values)
    except Error as e:
        raise Error(f"{path}: {e}") from None
    return values


if __name__ == "__main__":
    main()
