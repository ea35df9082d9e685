"""What minutes of training give: ours and peers on the same pairs, tokens and minutes, plainly and well.

    python scripts/speedrun.py runs/speedrun --minutes 3 6
    python scripts/speedrun.py runs/mine --minutes 10 --corpus mine.tsv --seeds 1 2 3
    python scripts/speedrun.py runs/search --split validation --attempt norm_position=post learning_rate=1e-3

Every system has the same tokenizer, the same batches, one thread and the size in scripts/configs/verses_demo.yaml, of
which options can change any field, for all systems. RECIPES says how each is trained. The table shows BLEU and chrF
(beam 4, mean and standard deviation over the seeds), the updates that the time was enough for, and what the machine
could multiply in that time, which makes two machines comparable. The runs of a seed go side by side: on a machine
whose speed changes from minute to minute, compare those.

An attempt is the best recipe of ours, or of a peer (such as `system=marian`), with other values for some fields.
Whoever tries something keeps it: each attempt becomes a line of OUTPUT/attempts.jsonl, with its gain over the recipe
and the probability of such a gain by chance (Welch's t-test over the seeds), and scripts/results/attempts.jsonl has
those that led to the recipes. They are to be judged on the validation split: the test split shows what came of it.

A run that is done is not made again, one that was interrupted goes on (a peer's begins anew).
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paper import runs
from scipy.stats import ttest_ind

from hf_vanilla.cli.streams import run_program
from hf_vanilla.training.config import TrainingConfig

CONFIG = Path(__file__).parent / "configs" / "verses_demo.yaml"

# What each system is trained by, beside CONFIG, which is our best.
PEER: dict[str, object] = {"optimizer": "adam", "learning_rate": 2e-3}
PLAIN = PEER | {"norm_position": "post", "initializer": "normal", "warmup_steps": 0.1}
INVERSE_SQRT = PEER | {"schedule": "inverse_sqrt", "warmup_steps": 400, "average_last": 1}
RECIPES: dict[str, dict[str, object]] = {
    "ours": {},
    "ours_plain": PLAIN,
    "marian": PEER | {"norm_position": "post", "initializer": "xavier", "warmup_steps": 0.3},
    "marian_plain": INVERSE_SQRT | {"norm_position": "post", "initializer": "xavier"},
    "joey": PEER | {"norm_position": "pre"},
    "joey_plain": INVERSE_SQRT | {"norm_position": "post"},
}


def training_config(system: str, changes: dict[str, str], run: dict[str, object], given: list[str]) -> TrainingConfig:
    """Return how a system is trained, with `changes` of an attempt and the fields of one run."""
    own = {"evaluations": 1, "bleu_sentences": 0, "checkpoint_every": 10**6, **RECIPES[system], **changes, **run}
    return TrainingConfig.load(CONFIG, [*runs.as_options(own), *given])


def measure(system: str, config: TrainingConfig, split: str, sentences: int) -> runs.Result:
    """Train a system, and score its translations of so many sentences of a split, evenly over it.

    What it prints goes into a file beside its folder.
    """
    folder = Path(config.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            return train_and_score(system, config, split, sentences)


def train_and_score(system: str, config: TrainingConfig, split: str, sentences: int) -> runs.Result:
    """Train a system, and return the scores of its translations, and what the machine could do meanwhile."""
    from peers.measuring import measured_peak
    from peers.training import build_joey, build_peer, train_peer

    from hf_vanilla import Translator
    from hf_vanilla.environment import hardware, keep_freed_memory, use_onednn_for_float32
    from hf_vanilla.training.tasks import TASKS
    from hf_vanilla.translation.metrics import TranslationQuality
    from hf_vanilla.translation.score_choices import QUICK_SCORES

    keep_freed_memory()
    use_onednn_for_float32()
    folder = Path(config.output_dir)
    if not system.startswith("ours"):
        found = train_peer(config, folder, build_joey if system.startswith("joey") else build_peer)
        result: runs.Result = {"perplexity": found["validation_perplexity"], "precision": found["precision"]}
    else:
        found = runs.train_here(config)
        result = {"perplexity": found["final"]["validation_perplexity"], "precision": found["mixed_precision"]}
    pairs = TASKS["translation"](config).load_corpus()[split]
    step = max(1, len(pairs) // sentences)
    pairs = pairs.select(range(0, step * min(sentences, len(pairs)), step))
    references = pairs["references"] if "references" in pairs.column_names else [[text] for text in pairs["target"]]
    translations = Translator.from_pretrained(folder, device="cpu")(list(pairs["source"]), num_beams=4)
    quality = TranslationQuality(metrics=QUICK_SCORES).compute(predictions=translations, references=list(references))
    result |= {"updates": found["updates"], "bleu": quality["bleu"], "chrf": quality["chrf"], "split": split}
    result |= {"sentences": len(translations), "hardware": hardware()}
    return result | {"gflops": measured_peak(result["precision"]), "minutes": config.train_minutes}


def parse_attempt(words: list[str]) -> tuple[str, str, dict[str, str]]:
    """Return the name of an attempt, its system, and the fields that it changes."""
    fields = dict(word.partition("=")[::2] for word in words)
    system = fields.pop("system", "ours")
    if system not in RECIPES:
        raise ValueError(f"system={system}; expected one of {', '.join(RECIPES)}")
    if not fields or not all(fields.values()):
        raise ValueError(f"--attempt {' '.join(words)}: expected FIELD=VALUE ...")
    return "+".join([system, *(f"{name}={value}" for name, value in sorted(fields.items()))]), system, fields


def describe_attempt(name: str, fields: dict[str, str], results: list[runs.Result], base: list[runs.Result]) -> Any:
    """Return what is kept of an attempt: what it changed, what it gave, and what the recipe alone gave."""
    kept = {"date": datetime.date.today().isoformat(), "attempt": name, "fields": fields}
    kept |= {entry: results[0][entry] for entry in ("minutes", "split", "sentences", "hardware", "gflops", "corpus")}
    kept |= {name: [round(each[name], 2) for each in results] for name in ("updates", "perplexity")}
    for score in ("bleu", "chrf"):
        own, others = ([round(each[score], 2) for each in of] for of in (results, base))
        kept |= {score: own, f"{score}_of_recipe": others}
        if others:
            kept[f"{score}_gain"] = round(statistics.mean(own) - statistics.mean(others), 2)
        if min(len(own), len(others)) > 1:
            p_value = float(ttest_ind(own, others, equal_var=False).pvalue)
            kept[f"{score}_p_value"] = None if math.isnan(p_value) else round(p_value, 4)
    return kept


def table_of_attempts(lines: list[str]) -> str:
    """Return what attempts changed and gave, a row for each line of an attempts.jsonl; a list has a value a seed."""
    rows = []
    for kept in map(json.loads, lines):
        system = kept["attempt"].partition("+")[0]
        changed = ", ".join(f"{name} {value}" for name, value in sorted(kept["fields"].items()))
        scores = (" ".join(map(str, kept.get(name, []))) for name in ("updates", "perplexity", "bleu", "chrf"))
        rows.append([f"{kept['minutes']:g}", system, changed, *scores, kept.get("beside") or kept.get("note", "")])
    columns = ["minutes", "system", "changed", "updates", "perplexity", "BLEU", "chrF", "beside it ran"]
    return runs.markdown_table(columns, rows)


def report(folder: Path, minutes: list[float], names: list[str]) -> None:
    """Write and print the table of all runs that are done."""
    rows = []
    for each in minutes:
        for name, results in runs.results_by_name(folder / f"{each:g}-minutes", names).items():
            products = [{"peta": 60 * result["minutes"] * result["gflops"] / 1e6} for result in results]
            cells = [f"{each:g}", runs.over_seeds(products, "peta"), name, runs.over_seeds(results, "updates", 0)]
            cells += [runs.over_seeds(results, score) for score in ("perplexity", "bleu", "chrf")]
            rows.append([*cells, str(len(results))])
    columns = ["minutes", "10^15 operations", "system", "updates", "perplexity", "BLEU", "chrF", "runs"]
    runs.publish(runs.markdown_table(columns, rows), folder / "speedrun.md")


def main() -> None:
    """Make the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for runs, table and attempts")
    parser.add_argument("--minutes", type=float, nargs="+", default=[6], help="minutes to train each run (default: 6)")
    there = [name for name in RECIPES if not name.startswith("joey") or find_spec("joeynmt")]
    said = "what to train (default: all that are installed)"
    parser.add_argument("--systems", nargs="*", choices=RECIPES, default=there, help=said)
    help = "fields that differ from a recipe; may be repeated"
    parser.add_argument("--attempt", nargs="+", action="append", default=[], metavar="FIELD=VALUE", help=help)
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="to score (default: test)")
    parser.add_argument("--sentences", type=int, default=300, help="sentences to translate (default: 300)")
    runs.add_run_options(parser, seeds=(1, 2, 3))
    options, given = parser.parse_known_args()
    if missing := sorted(set(options.systems) - set(there)):
        parser.error(f"{', '.join(missing)}: JoeyNMT is not installed; scripts/peers/joey.py says how")
    todo, corpus = [], ""
    try:
        attempts = {name: (system, fields) for name, system, fields in map(parse_attempt, options.attempt)}
        beside = (system for system, _ in attempts.values())  # each attempt is compared with its recipe
        systems: dict[str, Any] = {name: (name, {}) for name in (*options.systems, *beside)}
        for minutes in options.minutes:
            parent = options.folder / f"{minutes:g}-minutes"
            done = runs.read_results(parent)
            for seed in options.seeds:
                for name, (system, fields) in {**systems, **attempts}.items():
                    run = {"output_dir": parent / f"{name}-seed{seed}", "seed": seed, "train_minutes": minutes}
                    config = training_config(system, fields, run, given)
                    corpus = config.corpus
                    if (name, seed) not in done:
                        todo.append((system, config, options.split, options.sentences))
                    elif done[name, seed]["split"] != options.split:
                        parser.error(f"{run['output_dir']} was scored on another split: choose another folder")
                    elif changes := runs.changes_since(done[name, seed]["configuration"], config):
                        parser.error(f"{run['output_dir']}: {'; '.join(changes)}: choose another folder")
    except ValueError as error:
        parser.error(str(error))

    def keep(run: tuple, result: runs.Result | None, minutes_left: float) -> None:
        folder = Path(run[1].output_dir)
        if result is None:
            print(f"{folder.name} failed", flush=True)
            return
        runs.write_whole(
            folder / "result.json",
            json.dumps(result | {"corpus": corpus, "configuration": dataclasses.asdict(run[1])}, indent=1),
        )
        told = f"BLEU {result['bleu']:.1f}, chrF {result['chrf']:.1f}, {result['updates']:,} updates"
        print(f"{folder.parent.name} {folder.name}: {told}; {minutes_left:.0f} minutes left", flush=True)

    with runs.saying_how_to_go_on():
        runs.side_by_side(measure, todo, options.workers, keep)
    report(options.folder, options.minutes, [*systems, *attempts])
    lines = []
    for minutes in options.minutes:
        by_name = runs.results_by_name(options.folder / f"{minutes:g}-minutes", [*systems, *attempts])
        for name, (system, fields) in attempts.items():
            if name in by_name:
                lines.append(json.dumps(describe_attempt(name, fields, by_name[name], by_name.get(system, []))))
    if lines:
        runs.write_whole(options.folder / "attempts.jsonl", "\n".join(lines) + "\n")
        print(f"\n{table_of_attempts(lines)}")


if __name__ == "__main__":
    run_program(main)
