"""What attention brought to recurrent models, and self-attention after it: each trained for as many minutes.

    python scripts/compare_recurrent.py verses runs/compare --minutes 10
    python scripts/compare_recurrent.py recall runs/compare --minutes 3      # or copy, reverse
    python scripts/compare_recurrent.py verses runs/compare --minutes 10 --systems none dot --seeds 1
    python scripts/compare_recurrent.py verses runs/small --minutes 2 --hidden_size 128 --vocab_size 2000

On `verses` (Basic English to German, verses of at most 60 tokens) all systems learn from the same tokens in batches of
1,500, and have 3.1 to 3.7 million parameters, unless other fields of scripts/configs say otherwise. Measured are
target tokens a second in training, and BLEU and chrF (beam 4, two references, the chapters held out) overall and by
the words of the source.

`copy` and `reverse` are of 5 to 80 random symbols; `recall` asks for one symbol that stands between so many others on
either side, 10 to 500. Measured is the share of symbols that a greedy search gets right, by length.

A run that is done is not done again, one that was interrupted goes on where it was, and the table and the figure
(OUTPUT/TASK.md, OUTPUT/TASK.png) are of all that are done.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.state import AcceleratorState
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
from hf_vanilla.training.loop import train
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
    """That of scripts/configs with the options `given`, or of a Transformer as large on the same data."""
    options = [
        *given,
        "--output_dir",
        str(folder),
        "--train_minutes",
        str(minutes),
        "--seed",
        str(seed),
        "--evaluations",
        "1",
    ]
    if system != "transformer":
        return TrainingConfig.load(CONFIGS / f"recurrent_{system}.yaml", options)
    recurrent = yaml.safe_load((CONFIGS / "recurrent_none.yaml").read_text(encoding="utf-8"))
    width = TrainingConfig.load(CONFIGS / "recurrent_none.yaml", options).hidden_size
    own = {"architecture": "transformer", "num_attention_heads": 4, "intermediate_size": 2 * width}
    own["warmup_steps"] = 400  # after the recurrent models' 100, post-norm layers stay on a plateau
    fields = {name: value for name, value in recurrent.items() if name not in ("cell_type", "attention_type")} | own
    base = [text for name, value in fields.items() if name != "output_dir" for text in (f"--{name}", str(value))]
    return TrainingConfig.load(CONFIGS / "verses_small.yaml", [*base, *options])


def run_verses(system: str, seed: int, minutes: float, folder: Path, given: list[str]) -> dict[str, Any]:
    """Train and score one system."""
    AcceleratorState._reset_state(reset_partial_state=True)
    train(training_config(system, seed, minutes, folder, given))
    summary = json.loads((folder / "training_summary.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [record["tokens_per_second"] for record in log if "tokens_per_second" in record]
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
        "parameters": sum(weight.numel() for weight in translator.model.parameters()),
        "validation_perplexity": summary["final"]["validation_perplexity"],
        "precision": summary["mixed_precision"],
        "scores": scores,
    }


def make_examples(task: str, length: int, rows: int) -> tuple[Tensor, Tensor]:
    """Sources and targets, all of the same length."""
    symbols = torch.randint(FIRST, FIRST + SYMBOLS, (rows, length))
    end = torch.full((rows, 1), 2)
    if task == "recall":
        other = torch.randint(FIRST, FIRST + SYMBOLS, (rows, length))
        wanted = torch.randint(FIRST, FIRST + SYMBOLS, (rows, 1))
        return torch.cat((symbols, torch.full_like(wanted, MARK), wanted, other), 1), torch.cat((wanted, end), 1)
    target = symbols if task == "copy" else symbols.flip(1)
    return symbols, torch.cat((target, end), 1)


def run_symbols(task: str, system: str, seed: int, minutes: float, folder: Path) -> dict[str, Any]:
    """Train one system on a task with a known answer, and count what it gets right."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {"vocab_size": FIRST + SYMBOLS, "hidden_size": 128, "dropout": 0.0}
    model: Any
    if system == "transformer":
        shape: dict[str, Any] = {"intermediate_size": 256, "num_attention_heads": 4, "N": 1}
        shape["initializer_range"] = shared["hidden_size"] ** -0.5  # as recurrent ones begin; it learns sooner
        model = VanillaForConditionalGeneration(VanillaConfig(**shared, **shape))
    else:
        model = RecurrentForConditionalGeneration(RecurrentConfig(**shared, attention_type=system, N=1))
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
    torch.manual_seed(10**6)  # others than any run has learned from
    scores = {}
    for length in LENGTHS[task]:
        sources, targets = make_examples(task, length, 50)
        count = targets.shape[1] - 1
        options: dict[str, Any] = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False}
        found = model.generate(sources, attention_mask=torch.ones_like(sources), **options)[:, 1:]
        scores[str(length)] = {"accuracy": float((found == targets[:, :-1]).float().mean())}
    parameters = sum(weight.numel() for weight in model.parameters())
    return {
        "tokens_per_second": tokens / (60 * minutes),
        "updates": updates,
        "parameters": parameters,
        "scores": scores,
    }


def over_seeds(results: list[dict[str, Any]], read: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    values = [read(result) for result in results]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def report(task: str, folder: Path, done: dict[str, list[dict[str, Any]]]) -> None:
    """Write and print the table, and draw the figure."""
    import matplotlib.pyplot as plt

    metrics = ("bleu", "chrf") if task == "verses" else ("accuracy",)
    columns = ["all", *BINS] if task == "verses" else [str(length) for length in LENGTHS[task]]
    lines = [
        "| | parameters | updates | tokens/s | " + " | ".join(columns) + " | runs |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for system, results in done.items():
        cells = [f"{results[0]['parameters'] / 1e6:.2f} M", f"{over_seeds(results, lambda r: r['updates'])[0]:,.0f}"]
        cells.append(f"{over_seeds(results, lambda r: r['tokens_per_second'])[0]:,.0f}")
        for column in columns:
            pairs = [over_seeds(results, lambda r, c=column, m=metric: r["scores"][c][m]) for metric in metrics]  # type: ignore[misc]
            scale, digits = (1, 1) if task == "verses" else (100, 0)
            spreads = [f" ± {scale * spread:.{digits}f}" if len(results) > 1 else "" for _, spread in pairs]
            numbers = [f"{scale * mean:.{digits}f}{of}" for (mean, _), of in zip(pairs, spreads, strict=True)]
            cells.append(" / ".join(numbers))
        lines.append(f"| {SYSTEMS[system]} | " + " | ".join(cells) + f" | {len(results)} |")
    table = "\n".join(lines)
    minutes = sorted({result["minutes"] for results in done.values() for result in results})
    what = "BLEU / chrF by words of the source" if task == "verses" else "% of symbols right, by length"
    heading = f"{task}, {' or '.join(f'{value:g}' for value in minutes)} minutes a run: {what}"
    (folder / f"{task}.md").write_text(f"{heading}\n\n{table}\n", encoding="utf-8")
    print(f"{heading}\n\n{table}")

    figure, axes = plt.subplots(
        1, len(metrics), figsize=(max(7.0, 5.2 * len(metrics)), 4.2), layout="constrained", squeeze=False
    )
    shown = columns[1:] if task == "verses" else columns
    for axis, metric in zip(axes[0], metrics, strict=True):
        for system, results in done.items():
            pairs = [over_seeds(results, lambda r, c=column, m=metric: r["scores"][c][m]) for column in shown]  # type: ignore[misc]
            means, spreads = zip(*pairs, strict=True)
            style: dict[str, Any] = {"color": COLOURS[system], "label": SYSTEMS[system]}
            axis.errorbar(range(len(shown)), means, spreads, fmt="o-", capsize=3, markersize=4, **style)
        axis.set_xticks(range(len(shown)), shown)
        axis.set_xlabel("words of the source" if task == "verses" else "length")
        axis.set_ylabel({"bleu": "BLEU", "chrf": "chrF", "accuracy": "share of symbols right"}[metric])
        axis.set_ylim(bottom=0)
        axis.grid(True, alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(done), frameon=False)
    figure.savefig(folder / f"{task}.png", dpi=120)
    print(f"\nwritten: {folder / f'{task}.md'}, drawn: {folder / f'{task}.png'}")


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("verses", *LENGTHS))
    parser.add_argument("folder", type=Path, help="where runs, table and figure go")
    parser.add_argument("--minutes", type=float, default=10, help="of training, each run (default: 10)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: 1 2 3)")
    options, given = parser.parse_known_args()
    try:
        if options.task == "verses":
            for system in options.systems:
                training_config(system, 1, options.minutes, options.folder, given)
        elif given:
            raise ValueError(f"unrecognized arguments: {' '.join(given)}")
    except ValueError as error:
        parser.error(str(error))
    if options.minutes <= 0:
        parser.error(f"--minutes must be positive, got {options.minutes:g}")
    use_onednn_for_float32()
    keep_freed_memory()
    for seed in options.seeds:
        for system in options.systems:
            folder = options.folder / options.task / f"{system}-{seed}"
            path = folder / "result.json"
            if path.exists():
                minutes = json.loads(path.read_text(encoding="utf-8"))["minutes"]
                if minutes != options.minutes:
                    parser.error(f"{folder} was trained for {minutes:g} minutes: choose another folder, or so many")
                continue
            print(f"{options.task}: {SYSTEMS[system]}, seed {seed}", flush=True)
            if options.task == "verses":
                result = run_verses(system, seed, options.minutes, folder, given)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                result = run_symbols(options.task, system, seed, options.minutes, folder)
            path.write_text(json.dumps({"minutes": options.minutes, **result}, indent=1), encoding="utf-8")
    done = {}
    for system in SYSTEMS:
        paths = sorted((options.folder / options.task).glob(f"{system}-*/result.json"))
        if results := [json.loads(path.read_text(encoding="utf-8")) for path in paths]:
            done[system] = results
    report(options.task, options.folder, done)


if __name__ == "__main__":
    main()
