"""What attention added to recurrent models, and self-attention to both, when each is trained for as many minutes.

    python scripts/compare_recurrent.py verses runs/compare --minutes 10
    python scripts/compare_recurrent.py recall runs/compare --minutes 3      # or copy, reverse
    python scripts/compare_recurrent.py verses runs/compare --minutes 10 --systems none dot --seeds 1
    python scripts/compare_recurrent.py verses runs/small --minutes 2 --hidden_size 128 --vocab_size 2000

On `verses` (Basic English to German, verses of at most 60 tokens) all systems learn from the same tokens in batches of
1,500, and have 3.1 to 3.7 million parameters, unless fields of scripts/configs on the command line change that. It
measures target tokens a second in training, and BLEU and chrF of the chapters that are held out (beam 4, two
references), overall and by the words of the source.

`copy` and `reverse` are of 5 to 80 random symbols; `recall` asks for one symbol between 10 to 500 others on either
side. It measures the share of symbols that a greedy search gets right, by length.

A run that is done is not done again, one that was interrupted goes on where it was, and the table and the figure
(OUTPUT/TASK.md, OUTPUT/TASK.png) show all that are done.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import yaml
from paper.files import write_whole
from paper.runs import Result, add_run_options, as_options, markdown_table, over_seeds, read_results, train_here
from peers.measuring import save_figure
from torch import Tensor

from hf_vanilla import (
    RecurrentConfig,
    RecurrentForConditionalGeneration,
    Translator,
    VanillaConfig,
    VanillaForConditionalGeneration,
)
from hf_vanilla.data.corpora import load_corpus
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.run_log import read_records
from hf_vanilla.translation.metrics import TranslationQuality

CONFIGS = Path(__file__).parent / "configs"
SYSTEMS = {
    "none": "recurrent",
    "additive": "+ Bahdanau",
    "dot": "+ dot product",
    "local": "+ local",
    "transformer": "Transformer",
}
COLOURS = dict(zip(SYSTEMS, ("#7f7f7f", "#d98c00", "#2a9d4a", "#8a4fbf", "#1f5fa8"), strict=True))
BINS = {"1-10": (1, 10), "11-20": (11, 20), "21-30": (21, 30), "31+": (31, 10**6)}
LENGTHS = {"copy": (5, 10, 20, 40, 80), "reverse": (5, 10, 20, 40, 80), "recall": (10, 20, 50, 100, 200, 500)}
SYMBOLS, FIRST, MARK = 20, 4, 3  # ids 0 to 2 are those of padding, start and end
BATCH_TOKENS = 1500


def training_config(system: str, seed: int, minutes: float, folder: Path, given: list[str]) -> TrainingConfig:
    """Return the configuration of a run, with the options `given`.

    It is that of scripts/configs, or for a Transformer that of recurrent models on the same data, in their size.
    """
    own = {"output_dir": folder, "train_minutes": minutes, "seed": seed, "evaluations": 1}
    options = [*given, *as_options(own)]
    if system != "transformer":
        return TrainingConfig.load(CONFIGS / f"recurrent_{system}.yaml", options)
    recurrent = yaml.safe_load((CONFIGS / "recurrent_none.yaml").read_text(encoding="utf-8"))
    width = TrainingConfig.load(CONFIGS / "recurrent_none.yaml", options).hidden_size
    fields = {name: value for name, value in recurrent.items() if name not in ("cell_type", "attention_type")}
    fields |= {"architecture": "transformer", "num_attention_heads": 4, "intermediate_size": 2 * width}
    fields["warmup_steps"] = 400  # after the recurrent models' 100, post-norm layers stay on a plateau
    return TrainingConfig.load(CONFIGS / "verses_small.yaml", [*as_options(fields), *options])


def run_verses(system: str, seed: int, minutes: float, folder: Path, given: list[str]) -> Result:
    """Train one system on the verses, and score its translations."""
    summary = train_here(training_config(system, seed, minutes, folder, given))
    speeds = [r["tokens_per_second"] for r in read_records(folder / "log.jsonl") if "tokens_per_second" in r]
    translator, test = Translator.from_pretrained(folder, device="cpu"), load_corpus("verses")["test"]
    sources, references = list(test["source"]), [list(row) for row in test["references"]]
    translations = translator(sources, progress=True)
    words, scores = [len(source.split()) for source in sources], {}
    for name, (least, most) in {"all": (1, 10**6), **BINS}.items():
        rows = [row for row, count in enumerate(words) if least <= count <= most]
        quality = TranslationQuality().compute(
            predictions=[translations[row] for row in rows], references=[references[row] for row in rows]
        )
        scores[name] = {"bleu": quality["bleu"], "chrf": quality["chrf"], "sentences": len(rows)}
    return {
        "tokens_per_second": statistics.median(speeds),
        "updates": summary["updates"],
        "parameters": translator.model.num_parameters(),
        "validation_perplexity": summary["final"]["validation_perplexity"],
        "precision": summary["mixed_precision"],
        "scores": scores,
    }


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


def run_symbols(task: str, system: str, seed: int, minutes: float, folder: Path) -> Result:
    """Train one system on a task with a known answer, and count what it gets right."""
    torch.manual_seed(seed)
    shape = {"vocab_size": FIRST + SYMBOLS, "hidden_size": 128, "dropout": 0.0, "N": 1}
    model: VanillaForConditionalGeneration | RecurrentForConditionalGeneration
    if system == "transformer":
        shape |= {"intermediate_size": 256, "num_attention_heads": 4}
        shape["initializer_range"] = 128**-0.5  # as recurrent ones begin; it learns sooner
        model = VanillaForConditionalGeneration(VanillaConfig(**shape))
    else:
        model = RecurrentForConditionalGeneration(RecurrentConfig(**shape, attention_type=system))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    start, updates, tokens = time.monotonic(), 0, 0
    model.train()
    while (spent := time.monotonic() - start) < 60 * minutes:
        length = LENGTHS[task][updates % len(LENGTHS[task])]
        sources, targets = make_examples(task, length, max(2, BATCH_TOKENS // length))
        model(input_ids=sources, labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (updates + 1) / 100) * (1 - spent / (60 * minutes))
        optimizer.step()
        optimizer.zero_grad()
        updates, tokens = updates + 1, tokens + sources.numel() + targets.numel()
    model.eval()
    torch.manual_seed(10**6)  # no run has learned from these examples
    scores = {}
    for length in LENGTHS[task]:
        sources, targets = make_examples(task, length, 50)
        count = targets.shape[1] - 1
        options = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False}
        found = model.generate(sources, attention_mask=torch.ones_like(sources), **options)[:, 1:]
        scores[str(length)] = {"accuracy": float((found == targets[:, :-1]).float().mean())}
    return {
        "tokens_per_second": tokens / (60 * minutes),
        "updates": updates,
        "parameters": model.num_parameters(),
        "scores": scores,
    }


def report(task: str, folder: Path, done: dict[str, list[Result]]) -> None:
    """Write and print the table, and draw the figure."""
    is_verses = task == "verses"
    metrics = ("bleu", "chrf") if is_verses else ("accuracy",)
    columns = ["all", *BINS] if is_verses else [str(length) for length in LENGTHS[task]]
    digits, scale = (1, 1) if is_verses else (0, 100)
    rows = []
    for system, results in done.items():
        cells = [SYSTEMS[system], f"{results[0]['parameters'] / 1e6:.2f} M"]
        cells += [
            f"{statistics.mean(each[name] for each in results):,.0f}" for name in ("updates", "tokens_per_second")
        ]
        for column in columns:
            scores = [result["scores"][column] for result in results]
            cells.append(" / ".join(over_seeds(scores, metric, digits, scale) for metric in metrics))
        rows.append([*cells, str(len(results))])
    table = markdown_table(["", "parameters", "updates", "tokens/s", *columns, "runs"], rows)
    minutes = sorted({result["minutes"] for results in done.values() for result in results})
    what = "BLEU / chrF by words of the source" if is_verses else "% of symbols right, by length"
    heading = f"{task}, {' or '.join(f'{value:g}' for value in minutes)} minutes a run: {what}"
    (folder / f"{task}.md").write_text(f"{heading}\n\n{table}\n", encoding="utf-8")
    print(f"{heading}\n\n{table}\n\nwritten: {folder / f'{task}.md'}")
    draw(folder / f"{task}.png", done, metrics, columns[is_verses:], "words of the source" if is_verses else "length")


def draw(path: Path, done: dict[str, list[Result]], metrics: tuple[str, ...], columns: list[str], label: str) -> None:
    """Draw for each metric its mean and standard deviation over the runs of each system, by column."""
    import matplotlib.pyplot as plt

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
        axis.set_xlabel(label)
        axis.set_ylabel({"bleu": "BLEU", "chrf": "chrF", "accuracy": "share of symbols right"}[metric])
        axis.set_ylim(bottom=0)
        axis.grid(True, alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(done), frameon=False)
    save_figure(figure, path, dpi=120)


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("verses", *LENGTHS))
    parser.add_argument("folder", type=Path, help="folder for runs, table and figure")
    parser.add_argument("--minutes", type=float, default=10, help="minutes to train each run (default: 10)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="models (default: all)")
    add_run_options(parser, seeds=(1, 2, 3), side_by_side=False)
    options, given = parser.parse_known_args()
    runs = options.folder / options.task
    try:
        if options.task == "verses":
            for system in options.systems:
                training_config(system, 1, options.minutes, options.folder, given)
        elif given:
            raise ValueError(f"unrecognized arguments: {' '.join(given)}")
        done = read_results(runs, "-")
    except ValueError as error:
        parser.error(str(error))
    if options.minutes <= 0:
        parser.error(f"--minutes must be positive, got {options.minutes:g}")
    use_onednn_for_float32()
    keep_freed_memory()
    for seed in options.seeds:
        for system in options.systems:
            folder = runs / f"{system}-{seed}"
            if (system, seed) in done:
                if (minutes := done[system, seed]["minutes"]) != options.minutes:
                    parser.error(f"{folder} was trained for {minutes:g} minutes: choose another folder, or so many")
                continue
            print(f"{options.task}: {SYSTEMS[system]}, seed {seed}", flush=True)
            if options.task == "verses":
                result = run_verses(system, seed, options.minutes, folder, given)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                result = run_symbols(options.task, system, seed, options.minutes, folder)
            done[system, seed] = {"minutes": options.minutes, **result}
            write_whole(folder / "result.json", json.dumps(done[system, seed], indent=1))
    by_system = {system: [result for (of, _), result in done.items() if of == system] for system in SYSTEMS}
    report(options.task, options.folder, {system: results for system, results in by_system.items() if results})


if __name__ == "__main__":
    main()
