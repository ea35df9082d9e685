"""What attention added to recurrent models, and self-attention to both, when each is trained for as many minutes.

    python scripts/compare_recurrent.py verses runs/compare --minutes 10
    python scripts/compare_recurrent.py recall runs/compare --minutes 3      # or copy, reverse
    python scripts/compare_recurrent.py verses runs/compare --minutes 10 --systems none dot --seeds 1
    python scripts/compare_recurrent.py verses runs/small --minutes 2 --hidden_size 128 --vocab_size 2000

On `verses` (Basic English to German, at most 60 tokens) systems of 3.1 to 3.7 million parameters learn from the same
tokens in batches of 1,500; fields of scripts/configs can follow. It measures target tokens a second in training, and
BLEU and chrF of the chapters that are held out (beam 4, two references), overall and by the words of the source.
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

import matplotlib.pyplot as plt
import torch
from paper import runs
from peers.measuring import save_figure
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from hf_vanilla import RecurrentConfig, Translator, VanillaConfig
from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.corpora import load_corpus
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
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


def training_config(system: str, seed: int, minutes: float, folder: Path, given: list[str]) -> TrainingConfig:
    """Return the configuration of a run with the options `given`; a Transformer has the recurrent models' size."""
    own = {"output_dir": folder, "train_minutes": minutes, "seed": seed, "evaluations": 1}
    options = [*given, *runs.as_options(own)]
    if system != "transformer":
        return TrainingConfig.load(CONFIGS / f"recurrent_{system}.yaml", options)
    recurrent = read_yaml(CONFIGS / "recurrent_none.yaml")
    width = TrainingConfig.load(CONFIGS / "recurrent_none.yaml", options).hidden_size
    fields = {name: value for name, value in recurrent.items() if name not in ("cell_type", "attention_type")}
    fields |= {"architecture": "transformer", "num_attention_heads": 4, "intermediate_size": 2 * width}
    fields["warmup_steps"] = 400  # after the recurrent models' 100, post-norm layers stay on a plateau
    return TrainingConfig.load(CONFIGS / "verses_small.yaml", [*runs.as_options(fields), *options])


def run_verses(system: str, seed: int, minutes: float, folder: Path, given: list[str]) -> runs.Result:
    """Train one system on the verses, and score its translations."""
    summary = runs.train_here(training_config(system, seed, minutes, folder, given))
    speeds = [r["tokens_per_second"] for r in read_records(folder / "log.jsonl") if "tokens_per_second" in r]
    translator, test = Translator.from_pretrained(folder, device="cpu"), load_corpus("verses")["test"]
    sources, references = list(test["source"]), [list(row) for row in test["references"]]
    translations = translator(sources, progress=True)
    words, scores = [len(source.split()) for source in sources], {}
    for name, (least, most) in {"all": (1, 10**6), **BINS}.items():
        rows = [row for row, count in enumerate(words) if least <= count <= most]
        own, right = ([texts[row] for row in rows] for texts in (translations, references))
        quality = TranslationQuality(metrics=QUICK_SCORES).compute(predictions=own, references=right)
        scores[name] = {"bleu": quality["bleu"], "chrf": quality["chrf"], "sentences": len(rows)}
    result = {"tokens_per_second": statistics.median(speeds), "parameters": translator.model.num_parameters()}
    result |= {"updates": summary["updates"], "precision": summary["mixed_precision"], "scores": scores}
    return result | {"validation_perplexity": summary["final"]["validation_perplexity"]}


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


def run_symbols(task: str, system: str, seed: int, minutes: float) -> runs.Result:
    """Train one system on a task with a known answer, and count what it gets right."""
    torch.manual_seed(seed)
    shape = {"vocab_size": FIRST + SYMBOLS, "hidden_size": 128, "dropout": 0.0, "N": 1}
    if system == "transformer":  # its weights begin as recurrent ones do; it learns sooner
        own = {"intermediate_size": 256, "num_attention_heads": 4, "initializer_range": 128**-0.5}
        config = VanillaConfig(**shape, **own)
    else:
        config = RecurrentConfig(**shape, attention_type=system)
    model = AutoModelForSeq2SeqLM.from_config(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    start, updates, tokens = time.monotonic(), 0, 0
    model.train()
    while (spent := time.monotonic() - start) < 60 * minutes:
        length = LENGTHS[task][updates % len(LENGTHS[task])]
        sources, targets = make_examples(task, length, max(2, 1500 // length))
        model(input_ids=sources, labels=targets, output_logits=False).loss.backward()
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
    result = {"tokens_per_second": tokens / (60 * minutes), "updates": updates, "scores": scores}
    return result | {"parameters": model.num_parameters()}


def report(task: str, folder: Path, done: dict[str, list[runs.Result]]) -> None:
    """Write and print the table, and draw the figure."""
    is_verses = task == "verses"
    metrics = ("bleu", "chrf") if is_verses else ("accuracy",)
    columns = ["all", *BINS] if is_verses else [str(length) for length in LENGTHS[task]]
    digits, scale = (1, 1) if is_verses else (0, 100)
    rows = []
    for system, results in done.items():
        cells = [SYSTEMS[system], f"{results[0]['parameters'] / 1e6:.2f} M"]
        means = (statistics.mean(each[name] for each in results) for name in ("updates", "tokens_per_second"))
        cells += [f"{mean:,.0f}" for mean in means]
        for column in columns:
            scores = [result["scores"][column] for result in results]
            cells.append(" / ".join(runs.over_seeds(scores, metric, digits, scale) for metric in metrics))
        rows.append([*cells, str(len(results))])
    table = runs.markdown_table(["", "parameters", "updates", "tokens/s", *columns, "runs"], rows)
    minutes = " or ".join(f"{each:g}" for each in sorted({result["minutes"] for of in done.values() for result in of}))
    what = "BLEU / chrF by words of the source" if is_verses else "% of symbols right, by length"
    runs.publish(f"{task}, {minutes} minutes a run: {what}\n\n{table}", folder / f"{task}.md")
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


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("verses", *LENGTHS))
    parser.add_argument("folder", type=Path, help="folder for runs, table and figure")
    parser.add_argument("--minutes", type=float, default=10, help="minutes to train each run (default: 10)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="models (default: all)")
    runs.add_run_options(parser, seeds=(1, 2, 3), side_by_side=False)
    options, given = parser.parse_known_args()
    own = options.folder / options.task
    try:
        if options.task == "verses":
            for system in options.systems:
                training_config(system, 1, options.minutes, options.folder, given)
        elif given:
            raise ValueError(f"unrecognized arguments: {' '.join(given)}")
        done = runs.read_results(own, "-")
    except ValueError as error:
        parser.error(str(error))
    if options.minutes <= 0:
        parser.error(f"--minutes must be positive, got {options.minutes:g}")
    use_onednn_for_float32()
    keep_freed_memory()
    for seed in options.seeds:
        for system in options.systems:
            folder = own / f"{system}-{seed}"
            if (system, seed) in done:
                if (minutes := done[system, seed]["minutes"]) != options.minutes:
                    parser.error(f"{folder} was trained for {minutes:g} minutes: choose another folder, or so many")
                continue
            print(f"{options.task}: {SYSTEMS[system]}, seed {seed}", flush=True)
            if options.task == "verses":
                result = run_verses(system, seed, options.minutes, folder, given)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                result = run_symbols(options.task, system, seed, options.minutes)
            done[system, seed] = {"minutes": options.minutes, **result}
            runs.write_whole(folder / "result.json", json.dumps(done[system, seed], indent=1))
    report(options.task, options.folder, runs.results_by_name(own, SYSTEMS, "-"))


if __name__ == "__main__":
    run_program(main)
