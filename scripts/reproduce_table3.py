"""Table 3 of the paper at small scale: what each change to the base model does to translation of the verses.

    python scripts/reproduce_table3.py runs/table3         # the base and two rows, two seeds: 10 minutes on 2 cores
    python scripts/reproduce_table3.py runs/table3 --rows A B C D E --seeds 1 2 3       # all: 2 to 3 hours on 2 cores
    python scripts/reproduce_table3.py runs/table3 --rows h=1 d_k=16 --seeds 1 --workers 1
    python scripts/reproduce_table3.py runs/quick --rows D --seeds 1 --updates 50 --vocab_size 1000

Rows have the paper's names, but widths over 4 and depth over 2, as the base (scripts/configs/paper/table3_base.yaml).
All runs make as many updates of as many tokens; time is reported, not equalised. Perplexity (without smoothing), BLEU
and chrF (beam 4, alpha 0.6, no averaging) are of the validation verses. The paper's big model was trained three times
as long, and is not among the rows. A row "holds" if its difference from the base of the same seeds (of all, if it has
none of them) has the paper's sign and exceeds the standard deviation of such a difference over the seeds; else it is
"opposite", or "within spread". Where the paper has no difference, one within the spread "holds", another "differs".

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
from paper import runs

from hf_vanilla import Translator
from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import keep_freed_memory
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.tasks import TASKS
from hf_vanilla.translation.metrics import TranslationQuality
from hf_vanilla.translation.score_choices import QUICK_SCORES

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
QUICK = ("N=2", "d_model=256")  # by default, two that differ much from the base in the paper, and take the least time


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


def run(row: str, seed: int, folder: Path, given: list[str]) -> runs.Result:
    """Train one model or go on with it, have it translate, leave `result.json`, and return what is in it."""
    with FileLock(folder / "lock", timeout=0):
        config, model = training_config(row, seed, folder, given), folder / "model"
        summary, start = runs.train_here(config), time.monotonic()
        translator = Translator.from_pretrained(model, device="cpu")
        sides, pairs = ("source", "target"), TASKS["translation"](config).load_corpus()["validation"]
        encoded = [encode_texts(translator.tokenizer, list(pairs[side]))["input_ids"] for side in sides]
        lengths = [max(map(len, both)) for both in zip(*encoded, strict=True)]
        sources, targets = (
            [pair[side] for pair, length in zip(pairs, lengths, strict=True) if length <= config.max_length]
            for side in sides  # the perplexity is of these
        )
        translations, references = translator(sources), [[target] for target in targets]
        quality = TranslationQuality(metrics=QUICK_SCORES).compute(predictions=translations, references=references)
        result = {"row": row, "seed": seed, **quality, **runs.pick(summary, "versions")}
        result |= {"parameters": translator.model.num_parameters(), "training_seconds": summary["seconds"]}
        result["seconds"] += time.monotonic() - start
        runs.write_whole(folder / "result.json", json.dumps(result, indent=1))
        for name in ("checkpoints", "snapshots", "best"):  # of no more use
            shutil.rmtree(model / name, ignore_errors=True)
        return result


def run_quietly(row: str, seed: int, folder: Path, given: list[str]) -> runs.Result:
    """Do `run` in a process of its own, whose output goes into FOLDER/ROW-seedN/output.txt."""
    keep_freed_memory()
    own = folder / f"{row}-seed{seed}"
    own.mkdir(exist_ok=True)
    with (own / "output.txt").open("a", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    return run(row, seed, own, given)


def check_settings(folder: Path, config: TrainingConfig) -> None:
    """Raise a ValueError unless `settings.json` says that results in the folder are of the base model's settings."""
    path = folder / "settings.json"
    if path.exists():
        if changes := runs.changes_since(json.loads(path.read_text(encoding="utf-8")), config):
            raise ValueError(f"{folder} holds runs with other settings: {'; '.join(changes)}. Choose another folder")
    elif there := sorted(folder.glob("*-seed*/result.json")):
        raise ValueError(f"{there[0]} is of settings that {path} does not tell: it is not there")


def do_missing(wanted: list[tuple[str, int]], workers: int, folder: Path, given: list[str]) -> int:
    """Do the runs that are missing, some side by side, with a line for each that ends; return how many failed."""
    done = runs.read_results(folder)
    todo = [run for run in wanted if run not in done]
    if todo:
        print(f"{len(todo)} of {len(wanted)} runs to do, {workers} side by side", flush=True)
    ended, failed = len(wanted) - len(todo), 0

    def report_end(run: tuple[str, int], result: runs.Result | None, left: float) -> None:
        nonlocal ended, failed
        ended += 1
        line = f"{run[0]}, seed {run[1]}: "
        if result is None:
            failed += 1
            line += f"failed, see {folder / f'{run[0]}-seed{run[1]}' / 'output.txt'}"
        else:
            line = f"{ended}/{len(wanted)} {line}perplexity {result['perplexity']:.2f}, BLEU {result['bleu']:.2f}, "
            line += f"chrF {result['chrf']:.1f}, {result['training_seconds']:.0f} s; about {left:.0f} minutes left"
        print(line, flush=True)

    runs.side_by_side(partial(run_quietly, folder=folder, given=given), todo, workers, report_end)
    return failed


def verdict(paper: float, own: list[float], base: list[float]) -> tuple[str, str]:
    """Return how a row differs from the base, and the word for it: see the top of this file."""
    difference = statistics.mean(own) - statistics.mean(base)
    if min(len(own), len(base)) < 2:
        return f"{difference:+.2f}", "one seed"
    spread = (statistics.variance(own) + statistics.variance(base)) ** 0.5
    if abs(difference) <= spread:
        word = "within spread" if paper else "holds"
    else:
        word = "differs" if not paper else "holds" if difference * paper > 0 else "opposite"
    return f"{difference:+.2f} ± {spread:.2f}", word


def compare(row: str, results: list[runs.Result], base: list[runs.Result]) -> list[tuple[str, str, str]]:
    """Return for perplexity and BLEU the paper's cell, how the row differs from the base here, and the verdict."""
    cells, seeds = [], {result["seed"] for result in results}
    paired = [result for result in base if result["seed"] in seeds] or base
    measures = (("perplexity", 2), ("bleu", 1))
    for (name, digits), paper, reference in zip(measures, PAPER[row][1:], PAPER["base"][1:], strict=True):
        cell, found, difference = f"{paper:.{digits}f}", ("", ""), round(paper - reference, 2)
        if row != "base" and base:
            cell += f" ({difference:+.2f})"
            found = verdict(difference, *([result[name] for result in of] for of in (results, paired)))
        cells.append((cell, *found))
    return cells


def report(folder: Path) -> str:
    """Return the table of all that is done, in Markdown, below a line about it."""
    by_row = runs.results_by_name(folder, PAPER)
    rows, words = [], Counter[str]()
    for row, results in by_row.items():
        compared = compare(row, results, by_row.get("base", []))
        words.update(word for _, _, word in compared if word)
        cells = [PAPER[row][0], row, here(row), f"{results[0]['parameters']:,}"]
        measures = {"perplexity": 2, "bleu": 2, "chrf": 1, "training_seconds": 0}
        cells += [runs.over_seeds(results, name, digits) for name, digits in measures.items()]
        rows.append([*cells, str(len(results)), *compared[0], *compared[1]])
    every = [result for results in by_row.values() for result in results]
    about, settled = every[0], ", ".join(f"{word} {count}" for word, count in sorted(words.items()))
    heading = (
        f"{about['updates']:,} updates, {about['target_tokens'] / 1e6:.2f} million target tokens a run; "
        f"{about['sentences']} validation verses; {' and '.join(sorted({each['hardware'] for each in every}))}; "
        f"BLEU {about['bleu_signature']}, chrF {about['chrf_signature']}. Differences from the base: {settled or '-'}."
    )
    columns = ["", "row", "here", "parameters", "PPL", "BLEU", "chrF", "seconds", "seeds"]
    for name in ("PPL", "BLEU"):
        columns += [f"{name} in the paper", "against base, here", "direction"]
    return f"{heading}\n\n{runs.markdown_table(columns, rows)}"


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for runs and table")
    groups = sorted({group for group, *_ in PAPER.values()} - {""})
    names = f"{' '.join(PAPER)}, or groups of them, {' '.join(groups)}"
    rows_help = f"rows to run, of {names}; the base is always among them (default: {' '.join(QUICK)})"
    parser.add_argument("--rows", nargs="+", choices=[*PAPER, *groups], default=QUICK, metavar="ROW", help=rows_help)
    runs.add_run_options(parser, seeds=(1, 2))
    parser.add_argument("--updates", type=int, help="updates of each run (default: those of table3_base.yaml)")
    options, given = parser.parse_known_args()
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    folder = options.folder.resolve()
    given += [] if options.updates is None else ["--max_steps", str(options.updates)]
    chosen = [row for row in PAPER if row == "base" or row in options.rows or PAPER[row][0] in options.rows]
    wanted = [(row, seed) for seed in dict.fromkeys(options.seeds) for row in chosen]
    try:
        for row, seed in wanted:
            TASKS["translation"](training_config(row, seed, folder, given))  # for its error
        config = training_config("base", 1, folder, given)
        check_settings(folder, config)
        runs.read_results(folder)
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
    with runs.saying_how_to_go_on():
        failed = do_missing(wanted, options.workers, folder, given)
    if runs.read_results(folder):
        runs.publish(report(folder), folder / "table3.md")
    if failed:
        sys.exit(f"{failed} of {len(wanted)} runs failed; the same command goes on with them")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_program(main)
