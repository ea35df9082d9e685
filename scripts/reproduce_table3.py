"""Table 3 of the paper at small scale: what each change to the base model does to translation of the verses.

    python scripts/reproduce_table3.py runs/table3         # the base and two rows, two seeds: 10 minutes on 2 cores
    python scripts/reproduce_table3.py runs/table3 --rows A B C D E --seeds 1 2 3       # all: 2 to 3 hours on 2 cores
    python scripts/reproduce_table3.py runs/table3 --rows h=1 d_k=16 --seeds 1 --workers 1
    python scripts/reproduce_table3.py runs/quick --rows D --seeds 1 --updates 50 --vocab_size 1000

Rows have the paper's names and are made smaller as the base model is (scripts/configs/paper/table3_base.yaml): widths
by 4, depth by 2; heads, dropout and smoothing as they are. All runs make as many updates of as many tokens, as in the
paper; time is reported, not equalised. Perplexity (per token of one vocabulary, without smoothing), BLEU and chrF
(beam 4, alpha 0.6, one reference, no averaging of checkpoints) are of the validation verses. The paper's big model is
not among the rows: it was trained three times as long.

Each row is compared with the base of the same seeds (of all, if it has none of them): "holds" where the difference has
the paper's sign and exceeds the standard deviation of such a difference over the seeds, "within spread" where it does
not exceed it, else "opposite". Where the paper has none, one within the spread "holds", and another "differs".

A run that is done is not done again, one that was interrupted goes on where it was, and the table (FOLDER/table3.md)
shows all that are done. FOLDER/ROW-seedN holds result.json, what the run printed (output.txt), and the trained model.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from filelock import FileLock
from paper.files import write_whole
from paper.runs import (
    Result,
    add_run_options,
    changes_since,
    markdown_table,
    over_seeds,
    pick,
    read_results,
    saying_how_to_go_on,
    side_by_side,
    train_here,
)

from hf_vanilla import Translator
from hf_vanilla.environment import keep_freed_memory
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.tasks import TASKS
from hf_vanilla.translation.metrics import TranslationQuality

CONFIG = Path(__file__).parent / "configs" / "paper" / "table3_base.yaml"
PAPER = {
    "base": ("", 4.92, 25.8),
    "h=1": ("A", 5.29, 24.9),
    "h=4": ("A", 5.00, 25.5),
    "h=16": ("A", 4.91, 25.8),
    "h=32": ("A", 5.01, 25.4),
    "d_k=16": ("B", 5.16, 25.1),
    "d_k=32": ("B", 5.01, 25.4),
    "N=2": ("C", 6.11, 23.7),
    "N=4": ("C", 5.19, 25.3),
    "N=8": ("C", 4.88, 25.5),
    "d_model=256": ("C", 5.75, 24.5),
    "d_model=1024": ("C", 4.66, 26.0),
    "d_ff=1024": ("C", 5.12, 25.4),
    "d_ff=4096": ("C", 4.75, 26.2),
    "P_drop=0.0": ("D", 5.77, 24.6),
    "P_drop=0.2": ("D", 4.95, 25.5),
    "eps_ls=0.0": ("D", 4.67, 25.3),
    "eps_ls=0.2": ("D", 5.47, 25.7),
    "positions=learned": ("E", 4.92, 25.7),
}
"""Table 3: group, perplexity and BLEU on newstest2013. d_k and d_v are d_model / h, but for d_k in B."""
FIELDS = {
    "h": ("num_attention_heads",),
    "d_k": ("qk_head_dim",),
    "N": ("encoder_layers", "decoder_layers"),
    "d_model": ("hidden_size",),
    "d_ff": ("intermediate_size",),
    "P_drop": ("dropout",),
    "eps_ls": ("label_smoothing",),
    "positions": ("position_embedding_type",),
}
DIVISORS = {"N": 2, "d_k": 4, "d_model": 4, "d_ff": 4}
QUICK = ("N=2", "d_model=256")
"""The rows of a run without `--rows`: two that differ much from the base in the paper, and take the least time."""


def here(row: str) -> str:
    """Return what a row has at this scale, such as "N=1" for the paper's "N=2"."""
    name, _, value = row.partition("=")
    return f"{name}={int(value) // DIVISORS[name]}" if name in DIVISORS else row


def training_config(row: str, seed: int, folder: Path, given: list[str]) -> TrainingConfig:
    """Return the configuration of the base model, with the options `given`, and with what the row changes."""
    name, _, value = here(row).partition("=")
    changes = [text for field in FIELDS.get(name, ()) for text in (f"--{field}", value)]
    own = ["--output_dir", str(folder / "model"), "--seed", str(seed)]
    return TrainingConfig.load(CONFIG, [*given, *changes, *own])


def run(row: str, seed: int, folder: Path, given: list[str]) -> Result:
    """Train one model, have it translate, leave `result.json`, and return what is in it.

    It goes on with what an interrupted run left.

    Raises:
        filelock.Timeout: another process is at it.
    """
    with FileLock(folder / "lock", timeout=0):
        config, model = training_config(row, seed, folder, given), folder / "model"
        summary, start = train_here(config), time.monotonic()
        translator = Translator.from_pretrained(model, device="cpu")
        pairs = [  # the perplexity is of these
            pair
            for pair in TASKS["translation"](config).load_corpus()["validation"]
            if max(len(translator.tokenizer(pair[side])["input_ids"]) for side in ("source", "target"))
            <= config.max_length
        ]
        quality = TranslationQuality().compute(
            predictions=translator([pair["source"] for pair in pairs]), references=[[pair["target"]] for pair in pairs]
        )
        result = {
            "row": row,
            "seed": seed,
            **quality,
            **pick(summary, "versions"),
            "parameters": translator.model.num_parameters(),
            "training_seconds": summary["seconds"],
            "seconds": summary["seconds"] + time.monotonic() - start,
        }
        write_whole(folder / "result.json", json.dumps(result, indent=1))
        for name in ("checkpoints", "snapshots", "best"):  # of no more use
            shutil.rmtree(model / name, ignore_errors=True)
        return result


def run_quietly(row: str, seed: int, folder: Path, given: list[str]) -> Result:
    """Do `run` in a process of its own, whose output goes into FOLDER/ROW-seedN/output.txt."""
    keep_freed_memory()
    own = folder / f"{row}-seed{seed}"
    own.mkdir(exist_ok=True)
    with (own / "output.txt").open("a", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    return run(row, seed, own, given)


def check_settings(folder: Path, config: TrainingConfig) -> None:
    """Check by `settings.json` that results in the folder are of the settings of the base model.

    Raises:
        ValueError: they are of others, or of none that can be told.
    """
    path = folder / "settings.json"
    if path.exists():
        if changes := changes_since(json.loads(path.read_text(encoding="utf-8")), config):
            raise ValueError(f"{folder} holds runs with other settings: {'; '.join(changes)}. Choose another folder")
    elif there := sorted(folder.glob("*-seed*/result.json")):
        raise ValueError(f"{there[0]} is of settings that {path} does not tell: it is not there")


def do_missing(runs: list[tuple[str, int]], workers: int, folder: Path, given: list[str]) -> int:
    """Do the runs that are missing, some side by side, with a line for each that ends; return how many failed."""
    done = read_results(folder)
    todo = [run for run in runs if run not in done]
    if todo:
        print(f"{len(todo)} of {len(runs)} runs to do, {workers} side by side", flush=True)
    ended, failed = len(runs) - len(todo), 0

    def report_end(run: tuple[str, int], result: Result | None, left: float) -> None:
        nonlocal ended, failed
        ended += 1
        row, seed = run
        if result is None:
            failed += 1
            print(f"{row}, seed {seed}: failed, see {folder / f'{row}-seed{seed}' / 'output.txt'}", flush=True)
            return
        print(
            f"{ended}/{len(runs)} {row}, seed {seed}: perplexity {result['perplexity']:.2f}, "
            f"BLEU {result['bleu']:.2f}, chrF {result['chrf']:.1f}, {result['training_seconds']:.0f} s; "
            f"about {left:.0f} minutes left",
            flush=True,
        )

    side_by_side(partial(run_quietly, folder=folder, given=given), todo, workers, report_end)
    return failed


def verdict(paper: float, own: list[float], base: list[float]) -> tuple[str, str]:
    """Return how a row differs from the base, and the word for it: see the top of this file."""
    difference = statistics.mean(own) - statistics.mean(base)
    if min(len(own), len(base)) < 2:
        return f"{difference:+.2f}", "one seed"
    spread = (statistics.variance(own) + statistics.variance(base)) ** 0.5
    if abs(difference) <= spread:
        word = "within spread" if paper else "holds"
    elif paper:
        word = "holds" if (difference > 0) == (paper > 0) else "opposite"
    else:
        word = "differs"
    return f"{difference:+.2f} ± {spread:.2f}", word


def compare(row: str, results: list[Result], base: list[Result]) -> list[tuple[str, str, str]]:
    """Return for perplexity and BLEU the paper's cell, how the row differs from the base here, and the verdict."""
    cells = []
    measures = (("perplexity", 2), ("bleu", 1))
    for (name, digits), paper, reference in zip(measures, PAPER[row][1:], PAPER["base"][1:], strict=True):
        if row == "base" or not base:
            cells.append((f"{paper:.{digits}f}", "", ""))
            continue
        difference = round(paper - reference, 2)
        paired = [r[name] for r in base if r["seed"] in {own["seed"] for own in results}]
        found, word = verdict(difference, [r[name] for r in results], paired or [r[name] for r in base])
        cells.append((f"{paper:.{digits}f} ({difference:+.2f})", found, word))
    return cells


def report(folder: Path) -> str:
    """Return the table of all that is done, in Markdown, below a line about it."""
    by_row: dict[str, list[Result]] = {}
    for (row, _), result in sorted(read_results(folder).items()):
        by_row.setdefault(row, []).append(result)
    every, rows, words = [result for results in by_row.values() for result in results], [], Counter[str]()
    for row in PAPER:
        if not (results := by_row.get(row)):
            continue
        compared = compare(row, results, by_row.get("base", []))
        words.update(word for _, _, word in compared if word)
        rows.append(
            [
                PAPER[row][0],
                row,
                here(row),
                f"{results[0]['parameters']:,}",
                *(over_seeds(results, name, 2) for name in ("perplexity", "bleu")),
                over_seeds(results, "chrf"),
                over_seeds(results, "training_seconds", 0),
                str(len(results)),
                *compared[0],
                *compared[1],
            ]
        )
    about = every[0]
    settled = ", ".join(f"{word} {count}" for word, count in sorted(words.items()))
    heading = (
        f"{about['updates']:,} updates, {about['target_tokens'] / 1e6:.2f} million target tokens a run; "
        f"{about['sentences']} validation verses; {' and '.join(sorted({each['hardware'] for each in every}))}; "
        f"BLEU {about['bleu_signature']}, chrF {about['chrf_signature']}. Differences from the base: {settled or '-'}."
    )
    columns = ["", "row", "here", "parameters", "PPL", "BLEU", "chrF", "seconds", "seeds"]
    for name in ("PPL", "BLEU"):
        columns += [f"{name} in the paper", "against base, here", "direction"]
    return f"{heading}\n\n{markdown_table(columns, rows)}"


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for runs and table")
    groups = sorted({group for group, *_ in PAPER.values()} - {""})
    names = f"{' '.join(PAPER)}, or groups of them, {' '.join(groups)}"
    rows_help = f"rows to run, of {names}; the base is always among them (default: {' '.join(QUICK)})"
    parser.add_argument("--rows", nargs="+", choices=[*PAPER, *groups], default=QUICK, metavar="ROW", help=rows_help)
    add_run_options(parser, seeds=(1, 2))
    parser.add_argument("--updates", type=int, help="updates of each run (default: those of table3_base.yaml)")
    options, given = parser.parse_known_args()
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    folder = options.folder.resolve()
    given += [] if options.updates is None else ["--max_steps", str(options.updates)]
    chosen = [row for row in PAPER if row == "base" or row in options.rows or PAPER[row][0] in options.rows]
    runs = [(row, seed) for seed in dict.fromkeys(options.seeds) for row in chosen]
    try:
        for row, seed in runs:
            TASKS["translation"](training_config(row, seed, folder, given))  # for its error
        config = training_config("base", 1, folder, given)
        check_settings(folder, config)
        read_results(folder)
        # One vocabulary, without which perplexities cannot be compared; and one process fills the cache of the corpus.
        task = TASKS["translation"](config)
        tokenizer, saved = task.load_tokenizer(task.load_corpus()), folder / "tokenizer"
        folder.mkdir(parents=True, exist_ok=True)
        if not config.tokenizer:
            given += ["--tokenizer", str(saved)]
            if not (saved / "tokenizer.json").exists():
                tokenizer.save_pretrained(saved)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    settings = json.dumps(dataclasses.asdict(config) | {"output_dir": None}, indent=1)
    (folder / "settings.json").write_text(f"{settings}\n", encoding="utf-8")
    with saying_how_to_go_on():
        failed = do_missing(runs, options.workers, folder, given)
    if read_results(folder):
        table = report(folder)
        (folder / "table3.md").write_text(f"{table}\n", encoding="utf-8")
        print(f"\n{table}\n\nwritten: {folder / 'table3.md'}")
    if failed:
        sys.exit(f"{failed} of {len(runs)} runs failed; the same command goes on with them")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
