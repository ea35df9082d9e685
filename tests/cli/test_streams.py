"""Programs in any locale: UTF-8 out, arguments as they were typed, closed pipes, Ctrl-C, and help of every script."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").glob("*.py"))
# Each asks Python for another encoding of output than UTF-8.
LOCALES = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"LANG": "C"},
]
PROGRAM = """
import sys
from hf_vanilla.cli.streams import run_program
def main():
    {}
run_program(main)
"""


def run_code(code, *arguments, **options):
    command = [sys.executable, "-c", PROGRAM.format(code), *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.run(command, capture_output=True, env=variables, **options)


@pytest.mark.parametrize("locale", LOCALES)
def test_programs_write_and_read_utf_8_in_any_locale(locale):
    text = "ß भाषा 中文 😀"
    result = run_code("print(sys.argv[1], sys.argv[1], file=sys.stderr); print(sys.argv[1])", text, env=locale)
    assert result.returncode == 0 and result.stdout.decode("utf-8") == f"{text}\n"
    assert result.stderr.decode("utf-8") == f"{text} {text}\n"


@pytest.mark.parametrize("locale", LOCALES)
def test_arguments_that_are_not_utf_8_are_named(locale):
    result = run_code("print(1)", "a", b"caf\xe9", env=locale)
    assert result.returncode == 1 and b"argument 2 is not UTF-8: 'caf\\xe9'\n" in result.stderr
    command = [sys.executable, "-m", "hf_vanilla.cli", "attend", b"caf\xe9"]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | locale
    result = subprocess.run(command, capture_output=True, env=variables)
    assert result.returncode == 2 and b"argument 2 is not UTF-8: 'caf\\xe9'\n" in result.stderr


def test_half_a_surrogate_pair_is_shown_and_kills_nothing():
    assert run_code(r"print('a\ud83d')").stdout == b"a\\ud83d\n"


@pytest.mark.parametrize("code", ["print('a\\n' * 10**6)", "[print(i, flush=True) for i in range(10**6)]", "print(1)"])
def test_a_reader_that_goes_ends_a_program_quietly(code):
    """Also where all that it wrote was still in Python's buffer."""
    read, write = os.pipe()
    os.close(read)
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM.format(code)]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=variables)
    os.close(write)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_so_do_verbs(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hf_vanilla.cli", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=variables)
    os.close(write)
    # Where argparse prints, it takes the error for its own.
    assert result.returncode in (0, 128 + signal.SIGPIPE) and result.stderr == b""


def test_ctrl_c_is_one_line():
    result = run_code("raise KeyboardInterrupt")
    assert (result.returncode, result.stderr) == (130, b"-c: interrupted\n")


def test_every_script_runs_as_a_program():
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert "    run_program(" in text or "cli.main(" in text, path


LIGHT = ("check_reloaded", "fetch_labelled_corpora", "fetch_transformers_tests", "train_translation", "push_to_hub")


@pytest.mark.parametrize("name", LIGHT)
def test_scripts_answer_help(name, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--help"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert result.returncode == 0 and len(result.stdout.splitlines()) > 3, result.stderr
    assert not (tmp_path / "home").exists()
