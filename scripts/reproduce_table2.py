r"""Table 2 of the paper, WMT 2014: what its four training runs take on this machine, and their models' BLEU.

    python scripts/reproduce_table2.py probe scripts/configs/paper/wmt14_en_de_base.yaml --steps 20
    python scripts/reproduce_table2.py probe scripts/configs/paper/wmt14_en_de_big.yaml --mixed_precision bf16 \
        --gradient_checkpointing true --output_dir runs/probe/big_bf16
    hf-vanilla train scripts/configs/paper/wmt14_en_de_base.yaml             # or by torchrun: docs/guides/gpus.md
    python scripts/reproduce_table2.py score runs/wmt14_en_de_base
    python scripts/reproduce_table2.py score runs/wmt14_en_de_base --source newstest2014.en --reference newstest2014.de

`probe` makes a few updates by the loop of `hf-vanilla train` with the configuration's model, optimiser, schedule, loss
and tokens an update, but with the sentences of `verses`, from which a BPE learns as many tokens. It prints memory,
speed, the share of the machine's peak, and what the whole run would take, beside the paper's. Fields of the
configuration can follow. A CPU splits an update into 16 micro-batches, which takes less memory, a GPU into none. If it
is interrupted, it prints what it has measured, and the same command goes on. It ends as a run does (mean of snapshots,
validation, beam search), and leaves about 24 bytes a parameter in `output_dir`. Under torchrun all processes count.

`score` translates newstest2014 by beam search as in section 6.1 (beam 4, alpha 0.6, at most 50 tokens more than the
source); the same command goes on after an interruption. It prints three kinds of BLEU with their signatures: of text
tokenised as by Moses, which papers of 2017 report; of the same with compounds split at hyphens, as by the script that
the paper's authors published for German (get_ende_bleu.sh in tensor2tensor); and sacreBLEU of the text as it is. The
first two need `pip install sacremoses`.
"""

import argparse
import functools
import json
import operator
import os
import re
import shlex
import statistics
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from paper import runs
from peers.measuring import measured_peak, needed_products
from peers.models import Shape
from sacrebleu.metrics import BLEU
from transformers import AutoTokenizer

from hf_vanilla import Translator
from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.batching import TokenBatchSampler
from hf_vanilla.data.files import read_lines
from hf_vanilla.environment import choose_precision, hardware, keep_freed_memory
from hf_vanilla.training import run_log, state, tasks
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train
from hf_vanilla.translation.files import identity_of, translate_file

BEAMS, ALPHA = 4, 0.6
GPUS, P100_TFLOPS = 8, 9.5  # section 5.2, and footnote 5: float32
SETS = {"test": "newstest2014", "validation": "newstest2013"}


@dataclass(frozen=True)
class Row:
    """A row of Table 2 with the time that section 5.2 gives for it."""

    name: str
    d_ff: int
    steps: int
    step: float  # seconds
    hours: float
    flops: float  # hours x GPUs x peak of a GPU (section 6.1)
    bleu: dict[str, float]  # by target language


ROWS = {
    512: Row("Transformer (base)", 2048, 100_000, 0.4, 12, 3.3e18, {"de": 27.3, "fr": 38.1}),
    1024: Row("Transformer (big)", 4096, 300_000, 1.0, 3.5 * 24, 2.3e19, {"de": 28.4, "fr": 41.8}),
}
"""By d_model."""


def row_of(config: TrainingConfig) -> Row | None:
    """Return the row of a model of this size, if there is one."""
    row = ROWS.get(config.hidden_size)
    size = (config.encoder_layers, config.decoder_layers, config.intermediate_size)
    return row if row and size == (6, 6, row.d_ff) else None


def span(hours: float) -> str:
    """Say so many hours, in days if they are many."""
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def report_probe(config: TrainingConfig, full_steps: int) -> None:
    """Print what the log of a probe says, beside the paper."""
    folder, processes = Path(config.output_dir), int(os.environ.get("WORLD_SIZE", 1))
    records = [record for record in run_log.read_records(folder / "log.jsonl") if "loss" in record]
    if not records:
        sys.exit("reproduce_table2.py probe: interrupted before the end of the first update: nothing was measured")
    seconds = [record["seconds_per_update"] for record in records][len(records) > 1 :]  # the first warms up
    step = statistics.median(seconds)
    task, tokenizer = tasks.TASKS[config.task](config), AutoTokenizer.from_pretrained(folder)
    examples = task.examples(task.load_corpus(), "train", tokenizer)
    share = {"num_processes": processes, "accumulation_steps": config.accumulation_steps, "seed": config.seed}
    sampler = TokenBatchSampler(tasks.lengths_of(examples, task.columns), config.batch_tokens, **share)
    tokens = [sampler.lengths[:, batch].sum(axis=1) for batch in sampler.batches[: len(records)]]
    source, target = np.mean(tokens, axis=0)  # of an update, with </s>
    sizes = (config.encoder_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    shape = Shape(*sizes, vocabulary=len(tokenizer))
    batch = {"attention_mask": torch.ones(round(source)), "labels": torch.zeros(round(target))}
    products = needed_products(batch, "seq2seq", shape) / 1e3
    precision = choose_precision(config.mixed_precision).replace("no", "float32")
    peak = measured_peak("float32" if precision == "float32" else "bf16") / 1e3 * processes
    hours, parts = step * full_steps / 3600, processes * config.accumulation_steps
    how = f"{precision}, {parts} micro-batch(es)" + ", checkpointing" * config.gradient_checkpointing
    paper, theirs = row_of(config), {}
    if paper:
        share = products * 50_000 / (source + target) / (paper.hours * 3600 / paper.steps) / (GPUS * P100_TFLOPS)
        theirs = {
            "on": f"{GPUS} P100",
            "source + target tokens an update": "25,000 + 25,000",
            "seconds an update": f"{paper.step}",
            "target tokens a second": f"{25_000 / paper.step:,.0f}",
            "of the peak": f"{share:.0%} of {GPUS} x {P100_TFLOPS} TFLOP/s, by our count of products",
            "all updates": f"{span(paper.hours)} for {paper.steps:,}",
            "their FLOPs, time x peak": f"{paper.flops:.2g}",
        }
    here = {
        "on": f"{f'{processes} x ' if processes > 1 else ''}{hardware()}, {how}",
        "source + target tokens an update": f"{source:,.0f} + {target:,.0f}",
        "seconds an update": f"{step:.3g} ({min(seconds):.3g} to {max(seconds):.3g}, {len(seconds)} update(s))",
        "target tokens a second": f"{target / step:,.0f}",
        "memory of a process at its peak": f"{max(record['memory_gib'] for record in records):.1f} GiB",
        "matrix products of an update": f"{products:.3g} TFLOP",
        "of the peak": f"{products / step / peak:.0%} of {peak:.3g} TFLOP/s, measured",
        "all updates": f"{span(hours)} for {full_steps:,}",
        "their FLOPs, time x peak": f"{hours * 3600 * peak * 1e12:.2g}",
    }
    print(f"\n{folder}: loss {records[0]['loss']:.3f} at update 1, {records[-1]['loss']:.3f} at {len(records)}\n")
    rows = [(name, value, theirs.get(name, "")) for name, value in here.items()]
    print(runs.markdown_table(["", "here", paper.name if paper else "the paper"], rows))


def probe(options: argparse.Namespace, given: list[str]) -> None:
    """Train for `--steps` updates by the loop of `hf-vanilla train`, and report."""
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    whole = TrainingConfig.load(options.config, given)
    if whole.task != "translation" or whole.architecture != "transformer" or not whole.max_steps:
        raise ValueError(f"{options.config}: expected a Transformer that learns translation for max_steps updates")
    own = {"output_dir": f"runs/probe/{Path(options.config).stem}", "corpus": "verses", "log_every": 1}
    own |= {"accumulation_steps": 1 if torch.cuda.is_available() else 16, "average_last": 1, "keep_checkpoints": 1}
    own |= {"checkpoint_every": max(1, options.steps // 20), "evaluations": 1, "bleu_sentences": 0}
    own |= {"preprocessing_workers": 1, "loader_workers": 0}
    given = [*runs.as_options(own), *given, "--max_steps", str(options.steps)]
    config = TrainingConfig.load(options.config, given)
    status: int | str | None = 0
    try:
        train(config, shlex.join(sys.argv))
    except SystemExit as stopped:  # what was measured is shown all the same
        status = stopped.code
    if not int(os.environ.get("RANK", 0)):
        report_probe(config, whole.max_steps)
    if status:
        sys.exit(status)


def split_compounds(text: str) -> str:
    """Make a hyphen between two characters a token of its own, as get_ende_bleu.sh does; of A-B-C only the first."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", text)


def tokenised_bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
    """Return BLEU of texts with blanks between tokens, as by Moses' multi-bleu.perl, and its signature."""
    bleu = BLEU(tokenize="none", smooth_method="none", force=True)
    return bleu.corpus_score(hypotheses, [references]).score, str(bleu.get_signature())


def moses_tokenizer(language: str) -> Any:
    """Return the tokenizer of Moses for a language; raise an ImportError if sacremoses is not installed."""
    try:
        from sacremoses import MosesTokenizer
    except ImportError:
        raise ImportError("tokenised BLEU needs the tokenizer of Moses: pip install sacremoses") from None
    return MosesTokenizer(lang=language)


def scores(hypotheses: list[str], references: list[str], moses: Any) -> dict[str, tuple[float, str]]:
    """Return the three kinds of BLEU, each with its signature, of texts tokenised by `moses`."""
    sides = [[moses.tokenize(text, return_str=True) for text in side] for side in (hypotheses, references)]
    split = [[split_compounds(text) for text in side] for side in sides]
    (whole, signature), plain = tokenised_bleu(*sides), BLEU()
    signature += f" after sacremoses {version('sacremoses')}, {moses.lang}"
    return {
        "tokenised": (whole, signature),
        "tokenised, compounds split": (tokenised_bleu(*split)[0], f"{signature}, ##AT##-##AT##"),
        "sacreBLEU": (plain.corpus_score(hypotheses, [references]).score, str(plain.get_signature())),
    }


def fetch(config: TrainingConfig, split: str, folder: Path) -> list[Path]:
    """Return text files with the sources and references of a split of the run's data set on the Hub, fetched once."""
    columns = [config.source_column, config.target_column]
    paths = [folder / f"{SETS[split]}.{column.rpartition('.')[2]}" for column in columns]
    if not all(path.exists() for path in paths):
        if config.corpus_configuration is None:
            raise ValueError(f"this run learned from {config.corpus}, not from the Hub: give --source and --reference")
        rows = list(load_dataset(config.corpus, config.corpus_configuration, split=split, streaming=True))
        folder.mkdir(exist_ok=True)
        for path, column in zip(paths, columns, strict=True):
            texts = (functools.reduce(operator.getitem, column.split("."), row) for row in rows)
            runs.write_whole(path, "".join(f"{' '.join(text.splitlines())}\n" for text in texts))
    return paths


def score(options: argparse.Namespace, given: list[str]) -> None:
    """Translate a test set, print its BLEU, and keep it beside the translations."""
    if given:
        raise ValueError(f"unrecognized arguments: {' '.join(given)}")
    if bool(options.source) != bool(options.reference):
        raise ValueError("--source and --reference need each other")
    config, folder = TrainingConfig.load(options.run / state.CONFIG), options.run / "table2"
    language = options.language or config.target_column.rpartition(".")[2]
    if not re.fullmatch("[a-z]{2}", language):
        raise ValueError(f"{options.run} does not tell its target language: give --language, such as de")
    moses = moses_tokenizer(language)
    own = [options.source, options.reference] if options.source else fetch(config, options.split, folder)
    sources, references = (list(read_lines(path)) for path in own)
    if not sources or len(sources) != len(references):
        raise ValueError(f"{own[0]} has {len(sources)} lines, {own[1]} has {len(references)}; expected as many, not 0")
    folder.mkdir(exist_ok=True)
    target, search = folder / f"{own[0].name}.{language}", {"num_beams": BEAMS, "length_penalty": ALPHA}
    translator = Translator.from_pretrained(options.run)
    translate_file(translator, own[0], target, identity_of(translator, str(options.run), **search), **search)
    results = scores(list(read_lines(target)), references, moses)
    record = {name: {"bleu": bleu, "signature": signature} for name, (bleu, signature) in results.items()}
    record |= {"sentences": len(sources), **search}
    target.with_name(f"{target.name}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"{own[0]}: {len(sources):,} sentences, beam {BEAMS}, alpha {ALPHA}; translated in {target}\n")
    rows = [(name, f"{bleu:.1f}", f"`{signature}`") for name, (bleu, signature) in results.items()]
    if options.split == "test" and (paper := row_of(config)) and language in paper.bleu:
        name = f"Table 2, {paper.name}, newstest2014"
        rows.append((name, f"{paper.bleu[language]}", "tokenised; the paper says no more"))
    print(runs.markdown_table(["", "BLEU", "signature"], rows))


def main() -> None:
    """Read the options, and do one of the two jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("probe", help="measure what a run takes here", allow_abbrev=False)
    job.add_argument("config", help="file of scripts/configs/paper; its fields may follow as --field value")
    job.add_argument("--steps", type=int, default=20, help="updates to make (default: 20)")
    job.set_defaults(do=probe)
    job = jobs.add_parser("score", help="measure the BLEU of a run", allow_abbrev=False)
    job.add_argument("run", type=Path, help="output_dir of the run")
    job.add_argument("--split", choices=SETS, default="test", help="newstest2014 (default), or validation: 2013")
    job.add_argument("--source", type=Path, help="file to translate instead of the Hub's, one sentence a line")
    job.add_argument("--reference", type=Path, help="file with its translation, one sentence a line")
    job.add_argument("--language", help="language of the target (default: the end of target_column)")
    job.set_defaults(do=score)
    options, given = parser.parse_known_args()
    keep_freed_memory()
    try:
        with runs.saying_how_to_go_on():
            options.do(options, given)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"reproduce_table2.py {options.job}: {error}")


if __name__ == "__main__":
    run_program(main)
