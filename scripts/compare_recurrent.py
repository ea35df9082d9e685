"""What attention added to recurrent models, and self-attention to both, in equal time or in equal updates.

    python scripts/compare_recurrent.py verses runs/compare --minutes 10
    python scripts/compare_recurrent.py recall runs/compare --minutes 3      # or copy, reverse
    python scripts/compare_recurrent.py recall runs/equal --updates 1000     # of all systems, whatever they take
    python scripts/compare_recurrent.py recall runs/times --minutes 3 --measured runs/equal   # beside other processes
    python scripts/compare_recurrent.py verses runs/compare --minutes 10 --systems none dot --seeds 1
    python scripts/compare_recurrent.py verses runs/small --minutes 2 --hidden_size 128 --vocab_size 2000

All systems learn from the same batches, with a warm-up of a tenth, and start by one rule: weights of variance
1 / d_model (Xavier's, for square matrices). Each is first trained at every one of --rates with a seed of its own, 0;
the rate with the lowest validation perplexity, or the most symbols right, is that of its other runs.

A clock is no judge where other processes run. With `--measured FOLDER`, a run makes as many updates as fit into the
minutes by the fastest of the system's runs in FOLDER, at the rate that was best there.

On `verses` (Basic English to German, at most 60 tokens) systems of 3.1 to 3.7 million parameters learn in batches of
1,500 tokens; fields of scripts/configs can follow. It measures target tokens a second in training, and BLEU and chrF
of the chapters that are held out (beam 4, two references), overall and by the words of the source. `copy` and
`reverse` are of 5 to 80 random symbols; `recall` asks for one symbol between 10 to 500 others on either side. It
measures the share of symbols that a greedy search gets right, by length.

A run that is done is not done again, one that was interrupted goes on where it was, and the table and the figure
(OUTPUT/TASK.md, OUTPUT/TASK.png) show all that are done; OUTPUT/TASK-rates.md shows what each rate gave.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from paper import runs
from peers.measuring import save_figure
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from hf_vanilla import RecurrentConfig, Translator, VanillaConfig
from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.corpora import load_corpus
from hf_vanilla.environment import hardware, keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.optim import Progress, adam, linear_schedule
from hf_vanilla.training.run_log import read_records
from hf_vanilla.training.yaml_files import read_yaml
from hf_vanilla.translation.metrics import TranslationQuality
from hf_vanilla.translation.score_choices import QUICK_SCORES

CONFIGS = Path(__file__).parent / "configs"
SYSTEMS = {"none": "recurrent", "additive": "+ Bahdanau", "dot": "+ dot product", "local": "+ local"}
SYSTEMS["transformer"] = "Transformer"
COLOURS = dict(zip(SYSTEMS, ("#7f7f7f", "#d98c00", "#2a9d4a", "#8a4fbf", "#1f5fa8"), strict=True))
BINS = {"1-10": (1, 10), "11-20": (11, 20), "21-30": (21, 30), "31+": (31, 10**6)}
LENGTHS = {"copy": (5, 10, 20, 40, 80), "reverse": (5, 10, 20, 40, 80), "recall": (10, 20, 50, 100, 200, 500)}
SYMBOLS, FIRST, MARK = 20, 4, 3  # ids 0 to 2 are those of padding, start and end
WARMUP = 0.1  # of the budget
RATES = (1e-3, 2e-3, 4e-3)
SET_HERE = {"learning_rate": "give --rates", "warmup_steps": "it is a tenth"}
SET_HERE |= dict.fromkeys(("train_minutes", "max_steps"), "give --minutes or --updates")
Run = tuple[str, int, float, "Budget", Path]
"""System, seed, learning rate, budget, and folder."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may take: minutes, or updates."""

    minutes: float | None = None
    updates: int | None = None

    def __str__(self) -> str:
        return f"{self.updates:,} updates" if self.updates else f"{self.minutes:g} minutes"


def training_config(system: str, budget: Budget, fields: dict[str, object], given: list[str]) -> TrainingConfig:
    """Return the configuration of a run with the options `given`; a Transformer has the recurrent models' size."""
    path, options = CONFIGS / f"recurrent_{system}.yaml", [*given, *runs.as_options({"evaluations": 1} | fields)]
    options += ["--warmup_steps", str(WARMUP)]
    if system == "transformer":
        path, recurrent = CONFIGS / "verses_small.yaml", read_yaml(CONFIGS / "recurrent_none.yaml")
        width = TrainingConfig.load(CONFIGS / "recurrent_none.yaml", options).hidden_size
        own = {name: value for name, value in recurrent.items() if name not in ("cell_type", "attention_type")}
        own |= {"architecture": "transformer", "num_attention_heads": 4, "intermediate_size": 2 * width}
        options = [*runs.as_options(own | {"initializer": "xavier"}), *options]
    limits = {"train_minutes": budget.minutes, "max_steps": budget.updates}
    return dataclasses.replace(TrainingConfig.load(path, options), **limits)


def run_verses(config: TrainingConfig) -> runs.Result:
    """Train one system on the verses, and score its translations."""
    folder, summary = Path(config.output_dir), runs.train_here(config)
    speeds = [r["tokens_per_second"] for r in read_records(folder / "log.jsonl") if "tokens_per_second" in r]
    translator, test = Translator.from_pretrained(folder, device="cpu"), load_corpus("verses")["test"]
    sources, references = list(test["source"]), [list(row) for row in test["references"]]
    translations = translator(sources)
    words, scores = [len(source.split()) for source in sources], {}
    for name, (least, most) in {"all": (1, 10**6), **BINS}.items():
        rows = [row for row, count in enumerate(words) if least <= count <= most]
        own, right = ([texts[row] for row in rows] for texts in (translations, references))
        quality = TranslationQuality(metrics=QUICK_SCORES).compute(predictions=own, references=right)
        scores[name] = {"bleu": quality["bleu"], "chrf": quality["chrf"], "sentences": len(rows)}
    result = {"tokens_per_second": statistics.median(speeds), "parameters": translator.model.num_parameters()}
    result |= {"updates": summary["updates"], "precision": summary["mixed_precision"], "scores": scores}
    result |= {"validation_perplexity": summary["final"]["validation_perplexity"], "hardware": summary["hardware"]}
    return result | {"seconds": summary["seconds"]}


def make_examples(task: str, length: int, rows: int) -> tuple[Tensor, Tensor]:
    """Return sources and targets of random symbols, (rows, length) each, with </s> at the end of targets."""
    symbols = torch.randint(FIRST, FIRST + SYMBOLS, (rows, length))
    end = torch.full((rows, 1), 2)
    if task == "recall":
        other = torch.randint(FIRST, FIRST + SYMBOLS, (rows, length))
        wanted = torch.randint(FIRST, FIRST + SYMBOLS, (rows, 1))
        return torch.cat((symbols, torch.full_like(wanted, MARK), wanted, other), 1), torch.cat((wanted, end), 1)
    target = symbols if task == "copy" else symbols.flip(1)
    return symbols, torch.cat((target, end), 1)


def run_symbols(task: str, system: str, seed: int, rate: float, budget: Budget) -> runs.Result:
    """Train one system on a task with a known answer, and count what it gets right."""
    torch.manual_seed(seed)
    shape = {"vocab_size": FIRST + SYMBOLS, "hidden_size": 128, "dropout": 0.0, "N": 1}
    if system == "transformer":
        config = VanillaConfig(**shape, intermediate_size=256, num_attention_heads=4, initializer="xavier")
    else:
        config = RecurrentConfig(**shape, attention_type=system)
    model = AutoModelForSeq2SeqLM.from_config(config)
    optimizer, progress = adam(model.parameters(), rate), Progress(budget.updates, budget.minutes, WARMUP)
    schedule = linear_schedule(optimizer, progress)
    start, updates, tokens = time.monotonic(), 0, 0
    model.train()
    while progress.done < 1:
        length = LENGTHS[task][updates % len(LENGTHS[task])]
        sources, targets = make_examples(task, length, max(2, 1500 // length))
        model(input_ids=sources, labels=targets, output_logits=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        updates, tokens = updates + 1, tokens + sources.numel() + targets.numel()
        progress.update(updates, time.monotonic() - start)
        schedule.step()
    seconds = time.monotonic() - start
    model.eval()
    torch.manual_seed(10**6)  # no run has learned from these examples
    scores = {}
    for length in LENGTHS[task]:
        sources, targets = make_examples(task, length, 50)
        count = targets.shape[1] - 1
        options = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False}
        found = model.generate(sources, attention_mask=torch.ones_like(sources), **options)[:, 1:]
        scores[str(length)] = {"accuracy": float((found == targets[:, :-1]).float().mean())}
    result = {"tokens_per_second": tokens / seconds, "updates": updates, "scores": scores, "seconds": seconds}
    return result | {"parameters": model.num_parameters(), "hardware": hardware()}


def measure(task: str, system: str, seed: int, rate: float, budget: Budget, folder: Path, given: list[str]) -> Any:
    """Train and score one system, whose output goes into output.txt; leave `result.json`, and return what is in it."""
    use_onednn_for_float32()
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a", encoding="utf-8") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            if task == "verses":
                fields = {"output_dir": folder / "model", "seed": seed, "learning_rate": rate}
                result = run_verses(training_config(system, budget, fields, given))
            else:
                result = run_symbols(task, system, seed, rate, budget)
    result |= {"rate": rate, "budget": str(budget), "given": given}
    runs.write_whole(folder / "result.json", json.dumps(result, indent=1))
    return result


def goodness(result: runs.Result) -> float:
    """Return what the search for a rate maximises."""
    if "validation_perplexity" in result:
        return -result["validation_perplexity"]
    return statistics.mean(each["accuracy"] for each in result["scores"].values())


def report(task: str, folder: Path, done: dict[str, list[runs.Result]], budget: str) -> None:
    """Write and print the table, and draw the figure."""
    is_verses = task == "verses"
    metrics = ("bleu", "chrf") if is_verses else ("accuracy",)
    columns = ["all", *BINS] if is_verses else [str(length) for length in LENGTHS[task]]
    digits, scale = (1, 1) if is_verses else (0, 100)
    rows = []
    for system, results in done.items():
        cells = [SYSTEMS[system], f"{results[0]['parameters'] / 1e6:.2f} M", f"{results[0]['rate']:g}"]
        cells += [runs.over_seeds(results, name, 0) for name in ("updates", "seconds", "tokens_per_second")]
        for column in columns:
            scores = [result["scores"][column] for result in results]
            cells.append(" / ".join(runs.over_seeds(scores, metric, digits, scale) for metric in metrics))
        rows.append([*cells, str(len(results))])
    named = ["", "parameters", "rate", "updates", "seconds", "tokens/s", *columns, "runs"]
    what = "BLEU / chrF by words of the source" if is_verses else "% of symbols right, by length"
    machines = " and ".join(sorted({result["hardware"] for of in done.values() for result in of}))
    heading = f"{task}, {budget} a run, {machines}: {what}"
    runs.publish(f"{heading}\n\n{runs.markdown_table(named, rows)}", folder / f"{task}.md")
    draw(folder / f"{task}.png", done, metrics, columns[is_verses:], "words of the source" if is_verses else "length")


def draw(
    path: Path, done: dict[str, list[runs.Result]], metrics: tuple[str, ...], columns: list[str], label: str
) -> None:
    """Draw for each metric its mean and standard deviation over the runs of each system, by column."""
    size = (max(7.0, 5.2 * len(metrics)), 4.2)
    figure, axes = plt.subplots(1, len(metrics), figsize=size, layout="constrained", squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for system, results in done.items():
            values = [[result["scores"][column][metric] for result in results] for column in columns]
            means = [statistics.mean(each) for each in values]
            spreads = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
            style = {"color": COLOURS[system], "label": SYSTEMS[system]}
            axis.errorbar(range(len(columns)), means, spreads, fmt="o-", capsize=3, markersize=4, **style)
        axis.set_xticks(range(len(columns)), columns)
        measured = {"bleu": "BLEU", "chrf": "chrF", "accuracy": "share of symbols right"}[metric]
        axis.set(xlabel=label, ylabel=measured, ylim=(0, None))
        axis.grid(True, alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(done), frameon=False)
    save_figure(figure, path, dpi=120)


def search_table(tried: dict[tuple[str, float], runs.Result]) -> str:
    """Return what each rate gave each system: validation perplexity, or the share of symbols that are right."""
    rates = sorted({rate for _, rate in tried})
    rows = []
    for system in SYSTEMS:
        found = {rate: abs(goodness(tried[system, rate])) for rate in rates if (system, rate) in tried}
        if found:
            rows.append([SYSTEMS[system], *(f"{found[rate]:.3g}" if rate in found else "" for rate in rates)])
    return runs.markdown_table(["rate", *(f"{rate:g}" for rate in rates)], rows)


def do_missing(wanted: list[Run], options: argparse.Namespace, given: list[str]) -> dict[Path, runs.Result]:
    """Return what each run measured, by folder, after doing those that are missing, some side by side."""
    results: dict[Path, runs.Result] = {}
    for _, _, rate, budget, folder in wanted:
        if (path := folder / "result.json").exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            own = {"rate": rate, "budget": str(budget), "given": given}
            for name, value in own.items():
                if kept.get(name) != value:
                    was = f"{folder} is of {name} {kept.get(name)}, not {value}"
                    raise ValueError(f"{was}: choose another folder, or delete it")
            results[folder] = kept

    def keep(run: tuple, result: runs.Result | None, minutes_left: float) -> None:
        *_, folder, _ = run
        if result is None:
            sys.exit(f"a run failed, see {folder / 'output.txt'}; the same command goes on with the others")
        results[folder] = result
        print(f"{options.task}: {folder.name} is done; {minutes_left:.0f} minutes left", flush=True)

    todo = [(options.task, *run, given) for run in wanted if run[-1] not in results]
    runs.side_by_side(measure, todo, options.workers, keep)
    return results


def budget_by(folder: Path, system: str, minutes: float) -> tuple[Budget, float]:
    """Return how many updates of a system take so many minutes by the fastest of its runs in a folder, and the rate
    that was best there; without runs there, raise a ValueError."""
    runs_there = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob(f"{system}-*/result.json")]
    if not runs_there:
        raise ValueError(f"--measured {folder}: there is no run of {system}; compare in equal updates there first")
    seconds = min(each["seconds"] / each["updates"] for each in runs_there)
    return Budget(updates=round(60 * minutes / seconds)), max(runs_there, key=goodness)["rate"]


def compare(options: argparse.Namespace, budget: Budget, given: list[str]) -> None:
    """Search each system's rate, do the runs that are missing, and report all."""
    own = options.folder / options.task
    systems, rates = dict.fromkeys(options.systems), dict.fromkeys(options.rates)
    budgets, shown = dict.fromkeys(systems, budget), str(budget)
    if options.measured:
        measured = {each: budget_by(options.measured / options.task, each, budget.minutes or 0) for each in systems}
        budgets = {each: own_budget for each, (own_budget, _) in measured.items()}
        shown = f"the updates of {budget}, by the fastest run of each,"
    search = {(system, rate): own / "search" / f"{system}-{rate:g}" for system in systems for rate in rates}
    if options.measured:
        best = {each: rate for each, (_, rate) in measured.items()}
    elif len(rates) > 1:
        todo = [(system, 0, rate, budget, folder) for (system, rate), folder in search.items()]
        results = do_missing(todo, options, given)
        tried = {key: results[folder] for key, folder in search.items()}
        best = {system: max(rates, key=lambda rate: goodness(tried[system, rate])) for system in systems}
        runs.publish(search_table(tried), options.folder / f"{options.task}-rates.md")
    else:
        best = dict.fromkeys(systems, *rates)
    seeds = dict.fromkeys(options.seeds)
    do_missing(
        [(each, seed, best[each], budgets[each], own / f"{each}-{seed}") for seed in seeds for each in systems],
        options,
        given,
    )
    report(options.task, options.folder, runs.results_by_name(own, SYSTEMS, "-"), shown)


def main() -> None:
    """Read the command line, and refuse what no run could have before the first begins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("verses", *LENGTHS))
    parser.add_argument("folder", type=Path, help="folder for runs, table and figure")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=10, help="minutes to train each run (default: 10)")
    limit.add_argument("--updates", type=int, help="updates to train each run, instead of minutes")
    said = "folder of runs by which --minutes are counted in updates (default: the clock counts)"
    parser.add_argument("--measured", type=Path, help=said)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="models (default: all)")
    shown = " ".join(f"{rate:g}" for rate in RATES)
    said = f"learning rates to try for each system; one is taken as it is (default: {shown})"
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help=said)
    runs.add_run_options(parser, seeds=(1, 2, 3))
    options, given = parser.parse_known_args()
    for name in ("minutes", "updates"):
        if (value := getattr(options, name)) is not None and value <= 0:
            parser.error(f"--{name} must be positive, got {value:g}")
    if options.measured and options.updates:
        parser.error("--measured says how many updates --minutes are: leave out --updates")
    budget = Budget(updates=options.updates) if options.updates else Budget(options.minutes)
    try:
        if options.task == "verses":
            for name, instead in SET_HERE.items():
                if any(text.replace("-", "_").partition("=")[0] == f"__{name}" for text in given):
                    raise ValueError(f"--{name} is the same for all systems, or searched for each: {instead}")
            for system in options.systems:
                training_config(system, budget, {"output_dir": options.folder}, given)
        elif given:
            raise ValueError(f"unrecognized arguments: {' '.join(given)}")
        with runs.saying_how_to_go_on():
            compare(options, budget, given)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    run_program(main)
