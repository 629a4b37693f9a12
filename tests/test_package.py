"""What is imported from where, and a wheel that works away from the clone. Run me: pytest tests/test_package.py"""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import minift

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minift"
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME = {"torch", "numpy", "tiktoken", "tqdm"}
each_file = pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__init__")])


def imported(name):
    """(the modules of minift that a file imports, as "runs" or "tasks/classify"; the top names of all others)"""
    own, others = set(), set()
    package = Path(name).parent
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package.parents[node.level - 2] if node.level > 1 else package
            base = base / (node.module or "").replace(".", "/")
            inside = {(base / alias.name).as_posix() for alias in node.names}
            found = {module for module in inside if module in FILES or f"{module}/__init__" in FILES}
            own |= found or {base.as_posix()}
    return {"__init__" if module == "." else module for module in own}, others


OWN = {name: imported(name)[0] for name in FILES}
OTHERS = {name: imported(name)[1] for name in FILES}

TOKENIZERS = ("bpe", "marian", "unigram", "wordpiece", "words")

# From the ground up: a file imports from the lines above its own, and within a line nothing but what BESIDE says.
LAYERS = [
    {"errors"},
    {"files", "settings", "__init__", "download"},
    {"models/__init__", "models/bart", "models/bert", "models/bert2bert", "models/gpt2", "models/t5", "vectors"}
    | {"models/awd_lstm", "models/gpt_neo", "models/kim_cnn", "models/opt", "models/roberta", "models/distilbert"},
    {"metrics", "plots", "optim", "safetensors", "tokenizers/spm"},
    {"tokenizers/__init__", *(f"tokenizers/{name}" for name in TOKENIZERS), "tokenizers", "lora"},
    {"tokenizers/training", "adapters"},
    {"weights", "data", "generation", "baselines", "fingerprints", "checkpoint", "tasks/__init__"},
    {"hub"},
    {"fastai"},
    {"train", "pretrained", "tasks/classify", "tasks/lm", "tasks/translate"},
    {"tasks/mlm", "tasks/denoise", "tasks/prompt", "tasks/answer", "miniatures"},
    {"cnn", "tasks/answer_written", "memory"},
    {"use", "distill", "laws"},
    {"runs", "compare"},
    {"pretraining", "laws_pairs"},
    {"verify"},
    {"cli"},
    {"__main__"},
]
BESIDE = {
    ("tokenizers/marian", "tokenizers/unigram"),
    ("tokenizers/__init__", "tokenizers"),
    ("models/bert2bert", "models/bert"),  # which is two BERTs
}
BESIDE |= {("tokenizers/__init__", f"tokenizers/{name}") for name in TOKENIZERS}
BESIDE |= {(f"tokenizers/{name}", "tokenizers") for name in TOKENIZERS}


def test_the_runtime_packages_are_the_four():
    assert PROJECT["project"]["dependencies"] == ["torch>=2.10,<2.14", "numpy", "tiktoken", "tqdm"]
    assert PROJECT["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_nothing_from_outside_but_the_standard_library_and_the_four(name):
    assert OTHERS[name] - sys.stdlib_module_names <= RUNTIME


@pytest.mark.parametrize("name", FILES)
def test_imports_run_one_way(name):
    height = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    assert name in height, f"{name} is new: give it its place in LAYERS"
    for other in OWN[name]:
        lower = height[other] < height[name]
        assert lower or (name, other) in BESIDE, f"{name} imports {other}, which lies no lower"


@pytest.mark.parametrize(
    "name", [n for n in FILES if n.split("/")[0] in ("tokenizers", "safetensors", "optim", "metrics", "plots")]
)
def test_the_tools_know_nothing_of_minift_but_errors_and_files(name):
    assert {other for other in OWN[name] if other.split("/")[0] != "tokenizers"} <= {"errors", "files"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("models/")])
def test_a_model_is_read_alone(name):
    own = {other for other in OWN[name] if (name, other) not in BESIDE}
    assert own <= {"errors"} and OTHERS[name] - sys.stdlib_module_names <= {"torch"}


def test_a_task_knows_no_file_and_the_loop_neither_task_nor_model():
    assert OWN["tasks/classify"] == {"baselines", "data", "metrics", "errors"}
    language, translation = OWN["tasks/lm"] | OWN["tasks/mlm"], OWN["tasks/translate"] | OWN["tasks/denoise"]
    assert language == {"data", "generation", "metrics", "errors", "tasks/lm"}
    assert translation == {*language, "tasks/translate"}
    assert OWN["train"] == {"adapters", "checkpoint", "optim", "errors"}


def test_settings_and_the_command_line_load_nothing_heavy():
    for name in "settings", "cli", "__init__", "errors", "files", "hub":
        tree = ast.parse(FILES[name].read_text("utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in top:
            names = (
                {alias.name for alias in node.names} if isinstance(node, ast.Import) or node.level else {node.module}
            )
            assert not names & (RUNTIME | {"runs", "pretrained", "data", "generation"}), (name, names)


@each_file
def test_no_file_shadows_the_standard_library_or_a_runtime_package(name):
    """`python minift/x.py` puts minift/ first on the path."""
    top = Path(name).name
    assert top == "__main__" or top not in sys.stdlib_module_names | RUNTIME


@each_file
def test_no_module_bears_the_name_of_a_public_function(name):
    """Else importing it would put the module where the function was."""
    assert name not in minift.HOME and name not in minift.__all__


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_less_than_400_lines_and_says_what_it_is_for(name):
    text = FILES[name].read_text("utf-8")
    assert text.count("\n") < 400
    assert not text or name == "__main__" or ast.get_docstring(ast.parse(text))


def test_every_public_name_is_there():
    assert [name for name in minift.__all__ if not callable(getattr(minift, name))] == []
    assert set(minift.__all__) >= {"load", "save", "finetune", "predict", "evaluate", "generate", "Error"}
    assert set(minift.__all__) <= set(dir(minift))
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        _ = minift.finetun
    assert FILES["__init__"].read_text().count("\n") < 60


def test_the_top_of_the_clone_holds_what_the_design_says():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    found = {line.split("/")[0] for line in listed.stdout.splitlines() if not line.startswith(".")}
    assert found == {"pyproject.toml", "README.md", "LICENSE", "minift", "data", "tests", "tutorials"}


# -- the wheel --------------------------------------------------------------------------------------------------------


def run(*command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build/ of ours or of yesterday gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    hidden = shutil.ignore_patterns("__pycache__", ".*")
    for name in "minift", "data":
        shutil.copytree(ROOT / name, source / name, ignore=hidden)
    for name in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(ROOT / name, source)
    try:
        from setuptools import __version__ as version

        plain = int(version.split(".")[0]) < 77
    except ImportError:
        plain = True
    isolation = [] if plain else ["--no-build-isolation"]
    run("-m", "pip", "wheel", ".", "--no-deps", *isolation, "-q", "-w", folder, cwd=source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_code_the_data_and_the_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "minift/py.typed" in names
    assert {f"minift/{name}.py" for name in FILES} <= names
    data = {path.relative_to(ROOT / "data") for path in (ROOT / "data").rglob("*") if path.is_file()}
    data = {path.as_posix() for path in data if not any(part.startswith(".") for part in path.parts)}
    assert {"reviews/train.tsv", "models/bert-nano/config.json", "models/gpt2-nano/model.safetensors"} <= data
    assert {name.removeprefix("minift/_data/") for name in names if name.startswith("minift/_data/")} == data
    rest = {name for name in names if not name.startswith(("minift/", "minift-"))}
    assert rest == set()  # no tests, no tutorials
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_does_the_main_job_away_from_the_clone(wheel, tmp_path):
    site = tmp_path / "site"
    run("-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel, cwd=tmp_path)
    (tmp_path / "work").mkdir()
    # -I: neither the current folder nor PYTHONPATH; and an editable install of the clone comes after `site`.
    start = f"""
import sys
sys.path.insert(0, {str(site)!r})
sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]
import minift
from minift import cli, hub
assert minift.__file__.startswith({str(site)!r}) and hub.DATA.parent == hub.HERE, (minift.__file__, hub.DATA)
cli.main(sys.argv[1:])
ours = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "minift"]
assert len(ours) > 20 and all(path.startswith({str(site)!r}) for path in ours), ours
"""
    few = ("--max-steps", "3", "--batch-size", "8", "--device", "cpu", "--out", "run")
    out = run("-I", "-c", start, "finetune", "classify", *few, cwd=tmp_path / "work", OMP_NUM_THREADS="1")
    assert "bert-nano" in out and f"971 rows of {site / 'minift' / '_data' / 'reviews' / 'train.tsv'}" in out
    assert "trained    3 steps" in out and (tmp_path / "work" / "run" / "model.safetensors").exists()
    script = site / "bin" / "minift"
    if script.exists():  # the command that pip makes
        assert "example: minift" in run(script, "--help", cwd=tmp_path, PYTHONPATH=str(site))


def test_the_clone_finds_its_data_beside_itself():
    """As `pip install -e .` leaves it: no minift/_data, but data/."""
    assert not (PACKAGE / "_data").exists()
    assert find_spec("minift").origin == str(PACKAGE / "__init__.py")
    from minift import hub

    assert hub.DATA == ROOT / "data" and "bert-nano" in hub.embedded()
