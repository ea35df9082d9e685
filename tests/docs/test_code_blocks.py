"""Code blocks of README, guides and model cards run from top to bottom of their page, and those that are only shown
name nothing that does not exist."""

import json
import os
import re
import shutil
import socketserver
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from fresh import LIBRARIES, run_python

from hf_vanilla.cli.main import make_parsers
from hf_vanilla.training.config import TrainingConfig

ROOT = Path(__file__).parents[2]
PATHS = [path for pattern in ("*.md", "docs/**/*.md", "model_cards/**/*.md") for path in sorted(ROOT.glob(pattern))]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PATHS if path.name != "CHANGELOG.md"
}
SPANS = re.compile(r"(?<!`)`((?:hf-vanilla|python|torchrun|accelerate) [^`]+)`(?!`)")
SHOWN = {"console", "py", "bibtex", "mermaid"}
NEEDED = {
    "docs/guides/convert.md": ("ctranslate2", "onnxscript", "onnxruntime"),
    "docs/guides/fine_tune.md": ("peft",),
}
NEEDED |= dict.fromkeys(("docs/guides/attention.md", "docs/guides/own_pairs.md"), ("matplotlib",))

SLOW = {f"docs/guides/{name}.md" for name in ("convert", "hub", "own_pairs", "train")}  # half a minute and more


class Block(NamedTuple):
    line: int
    language: str
    code: str


def find_blocks(text: str) -> list[Block]:
    """Return the code blocks of a page, in its order."""
    found = re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE)
    return [Block(text[: each.start()].count("\n") + 1, each[2], textwrap.dedent(each[3])) for each in found]


BLOCKS = {page: find_blocks(text) for page, text in PAGES.items()}
RUNNING = {page: [each for each in found if each.language in ("bash", "python")] for page, found in BLOCKS.items()}
KOREAN = {"README.ko.md": "README.md"} | {page: page.replace("/ko/", "/") for page in PAGES if "/ko/" in page}

# Runs the blocks of a page: those in Python share their names, as the cells of a notebook do.
PAGE = """
import json, subprocess, sys
page, blocks = json.load(sys.stdin)
names = {"__name__": "__main__"}
for line, language, code in blocks:
    if language == "python":
        exec(compile("\\n" * line + code, page, "exec"), names)
        sys.stdout.flush()
    elif subprocess.run(["bash", "-e", "-o", "pipefail", "-c", code], stdin=subprocess.DEVNULL).returncode:
        sys.exit(f'File "{page}", line {line}: this block of bash fails')
"""
# What `hf-vanilla` and `python` are there: they ask for a process that is forked where the libraries are imported.
PROGRAM = """#!{python} -IS
import json, os, socket, sys
given = [os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ), sys.stdin.buffer.read().decode()]
connection = socket.socket(socket.AF_UNIX)
connection.connect("{address}")
with connection.makefile("rw") as stream:
    print(json.dumps(given), file=stream, flush=True)
    status, *printed = json.loads(stream.readline())
for stream, text in zip((sys.stdout, sys.stderr), printed):
    stream.buffer.write(text.encode())
sys.exit(status)
"""
VERB = "import sys; sys.argv[0] = 'hf-vanilla'; from hf_vanilla.cli import main; main()"
SCRIPT = """
import os, runpy, sys
del sys.argv[0]
if sys.argv[0] == "-":
    exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
else:
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


STAND_IN = """
printf '%s\\n\\n' 'In the beginning' 'God made heaven' 'and earth.' 'And God said:' 'Let there be light.' > text.txt
config=scripts/configs/{name}.yaml
case {name} in
    masked_lm) config=scripts/configs/masked_lm_16.yaml ;& causal_lm) corpus="--corpus text.txt" ;;
    *) config=scripts/configs/tiny.yaml
esac
hf-vanilla train $config --output_dir user/{name} $corpus --N 1 --hidden_size 32 --intermediate_size 64 \\
    --max_length 30 --vocab_size 300 --batch_tokens 60 --max_steps 2 --warmup_steps 1
"""


class Start(socketserver.StreamRequestHandler):
    """Starts what a `PROGRAM` asks for, and answers with its status and with what it printed."""

    def handle(self) -> None:
        program, arguments, folder, variables, given = json.loads(self.rfile.readline())
        code = VERB if program == "hf-vanilla" else SCRIPT
        result = run_python(code, *arguments, cwd=folder, env=variables, input=given, server=LIBRARIES)
        self.wfile.write(json.dumps([result.returncode, result.stdout, result.stderr]).encode() + b"\n")


@pytest.fixture(scope="module")
def variables():
    """The environment of pages, where `PROGRAM` comes first, and then what lies beside this interpreter."""
    with tempfile.TemporaryDirectory() as folder, socketserver.UnixStreamServer(f"{folder}/socket", Start) as server:
        for name in ("hf-vanilla", "python"):
            Path(folder, name).write_text(PROGRAM.format(python=sys.executable, address=server.server_address))
            Path(folder, name).chmod(0o755)
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        path = os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
        yield os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
        server.shutdown()


def run_page(page: str, blocks: list[Block], folder: Path, variables: dict[str, str]) -> str:
    """Run blocks in a folder that has nothing but the scripts, and return what they print."""
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__", "results"))
    given = json.dumps([str(ROOT / page), blocks])
    result = run_python(PAGE, cwd=folder, env=variables, input=given, server=LIBRARIES)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW))
        for page in PAGES
        if RUNNING[page] and page not in KOREAN
    ],
)
def test_the_blocks_of_a_page_run(page, tmp_path, variables):
    for module in NEEDED.get(page, ()):
        pytest.importorskip(module)
    blocks = RUNNING[page]
    if page.startswith("model_cards/"):  # of a model that nobody has pushed: one of its kind lies in its place
        blocks = [Block(1, "bash", STAND_IN.format(name=Path(page).parent.name)), *blocks]
    printed = run_page(page, blocks, tmp_path, variables)
    for promised in re.findall(r"^print\(.*\)  # (der .*)", PAGES[page], re.MULTILINE):
        assert promised in printed.splitlines()


def test_readme_has_a_short_block_for_each_family():
    snippets = [block.code for block in RUNNING["README.md"] if block.language == "python"]
    assert len(snippets) == 3 and all(len(snippet.splitlines()) <= 15 for snippet in snippets)


@pytest.mark.parametrize("page", [page for page in PAGES if page in KOREAN])
def test_a_page_in_korean_has_the_blocks_of_its_english_one(page):
    def without_comments(blocks):
        return [(block.language, re.sub(r" *# .*", "", block.code)) for block in blocks]

    assert without_comments(BLOCKS[page]) == without_comments(BLOCKS[KOREAN[page]])


@pytest.mark.slow
def test_the_blocks_of_readme_run_in_any_locale_and_folder_and_into_a_pipe(tmp_path):
    """In a folder with blanks, where output is to be ASCII, in processes of their own: none may die of a letter."""
    folder = tmp_path / "a folder, and ß"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "LANG": "C", "PYTHONIOENCODING": "ascii"}
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    more = "echo 'And he said: “Ä!”' | hf-vanilla translate runs/tiny --output more.txt\ncat more.txt | cat"
    run_page("README.md", [*RUNNING["README.md"], Block(0, "bash", more)], folder, variables)
    written = ("attention.html", "german.txt", "more.txt", "page.html", "runs/marian", "runs/card/README.md")
    assert all((folder / name).exists() for name in written)


def test_no_block_is_overlooked():
    """Each fence opens or closes a block in a language that runs, or that is known to be only shown."""
    for page, text in PAGES.items():
        assert len(re.findall("^ *(?:```|~~~)", text, re.MULTILINE)) == 2 * len(BLOCKS[page]), page
        assert {block.language for block in BLOCKS[page]} <= {"bash", "python", *SHOWN}, page
    assert sum(map(len, RUNNING.values())) > 50


# Prints the options of scripts, which end where their parsers are to read arguments.
OPTIONS = """
import argparse, json, runpy, sys

def list_options(parser):
    for action in parser._actions:
        yield from action.option_strings
        for parser in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from list_options(parser)

class Found(Exception):
    pass

def stop(parser, *_, **__):
    raise Found(parser)

argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_known_args = stop
options = {}
for script in sys.argv[1:]:
    sys.argv = [script, "CONFIG", "FOLDER"]
    sys.path[0] = "scripts"
    try:
        runpy.run_path(script, run_name="__main__")
    except Found as found:
        options[script] = list(list_options(found.args[0]))
print(json.dumps(options))
"""


def find_commands(text: str) -> list[list[str]]:
    """Return the words from `hf-vanilla`, or from the path of a script, to the end of each command of a text."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found = [re.search(r"(?<![\w/.-])(hf-vanilla \w|scripts/\w+\.py\b)[^|;&>#`\"]*", line) for line in lines]
    return [each[0].split() for each in found if each]


def test_commands_name_only_verbs_scripts_and_options_that_exist():
    commands = [(page, words) for page in PAGES for block in BLOCKS[page] for words in find_commands(block.code)]
    spans = [(page, span) for page, text in PAGES.items() for span in SPANS.findall(text)]
    commands += [(page, words) for page, span in spans for words in find_commands(span)]
    scripts = sorted({words[0] for _, words in commands} - {"hf-vanilla"})
    assert not [script for script in scripts if not (ROOT / script).is_file()]
    known = json.loads(run_python(OPTIONS, *scripts, cwd=ROOT, server=LIBRARIES, check=True).stdout)
    fields = {*TrainingConfig.parser()._option_string_actions, *known["scripts/finetune_sequence_classification.py"]}
    known |= {verb: list(parser._option_string_actions) for verb, parser in make_parsers()[1].items()}
    wrong = []
    for page, words in commands:
        program, *words = words[words[0] == "hf-vanilla" :]
        with_fields = program.startswith(("train", "scripts/train_")) or (
            program.startswith("scripts/") and "parse_known_args" in (ROOT / program).read_text(encoding="utf-8")
        )
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if program not in known or options - {*known[program], *(fields if with_fields else ())}:
            wrong.append((page, program, *words))
    assert len(commands) > 100 and not wrong
