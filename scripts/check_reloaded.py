"""Check that a saved model, loaded by the Auto classes in a fresh process, translates as it did after training.

    python scripts/check_reloaded.py runs/verses_demo

Training leaves a few sentences and their translations beside the model; any difference ends this script with an error.
For scores on a test split there is `hf-vanilla evaluate runs/verses_demo --corpus verses`.
"""

import argparse
import json
import sys
from pathlib import Path

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.files import read_lines
from hf_vanilla.translation.translator import Translator


def main(folder: Path) -> None:
    """Exit with an error if the model saved in `folder` translates a line of `samples.jsonl` there differently now."""
    samples = [json.loads(line) for line in read_lines(folder / "samples.jsonl")]
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    translations = Translator(model, AutoTokenizer.from_pretrained(folder))([sample["source"] for sample in samples])
    for sample, translation in zip(samples, translations, strict=True):
        if sample["translation"] != translation:
            sys.exit(f"{folder}: {sample} when training ended, {translation!r} now")
    print(f"{type(model).__name__} from {folder}: the same {len(samples)} translations as when training ended")


def check() -> None:
    """Check the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that `hf-vanilla train` wrote for a translation model")
    try:
        main(parser.parse_args().folder)
    except FileNotFoundError as error:
        sys.exit(f"{error}; expected a folder that `hf-vanilla train` wrote for a translation model")


if __name__ == "__main__":
    run_program(check)
