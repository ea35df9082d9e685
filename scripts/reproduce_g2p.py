"""Grapheme-to-phoneme conversion on CMUdict, beside peers on the same split: phoneme and word error rates.

    python scripts/reproduce_g2p.py runs/g2p                             # 3 seeds of each, an hour a run, one by one
    python scripts/reproduce_g2p.py runs/g2p --systems transformer phonetisaurus --seeds 1
    python scripts/reproduce_g2p.py runs/quick --train_minutes 1 --words 500    # fields of the YAML can follow
    python scripts/reproduce_g2p.py runs/g2p --keep scripts/results/g2p       # and keep what the card shows

Each system learns from the same words (scripts/configs/g2p_cmudict.yaml): `transformer` is ours, `recurrent` our LSTMs
with attention by a dot product, `marian` transformers' MarianMTModel in our size, by Trainer on the same batches, and
`phonetisaurus` joint n-grams, where the package is installed. Neural ones have the same tokens and minutes, and all
cores each. They are decoded greedily, with beam 4, and with beam 5 for lists of 5.

PER are edits that make the first answer the nearest right one, in percent of that one's phonemes; WER are words whose
first answer is not among the right ones. Intervals are of 95 %, by bootstrap over seeds and words together. A run that
is done is not made again. FOLDER/g2p.md holds the tables, FOLDER/attention.png what the first seed's model looks at.
"""

import argparse
import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from paper import runs
from rapidfuzz.distance import Levenshtein

from hf_vanilla.cli.streams import run_program
from hf_vanilla.training.config import TrainingConfig

CONFIG = Path(__file__).parent / "configs" / "g2p_cmudict.yaml"
ADAM: dict[str, object] = {"optimizer": "adam", "learning_rate": 2e-3}
# What each system is trained by, beside CONFIG: Marian has post-norm alone, and LSTMs want their gradients clipped.
RECURRENT = {"architecture": "recurrent", "attention_type": "dot", "hidden_size": 224, "max_grad_norm": 5.0}
RECURRENT |= {"encoder_layers": 2, "decoder_layers": 2, "initializer": "normal", "norm_position": "post"}
SYSTEMS: dict[str, dict[str, object]] = {
    "transformer": {},
    "recurrent": ADAM | RECURRENT,
    "marian": ADAM | {"norm_position": "post", "warmup_steps": 0.3},
    "phonetisaurus": {},
}
DECODED = {"greedy": {"num_beams": 1}, "beam 4": {"num_beams": 4}, "5 best": {"num_beams": 5, "n_best": 5}}
PUBLISHED = {"Transformer 4 + 4, arXiv 2004.06338, a split of its own": ("5.23", "22.1")}
LETTERS = {"1-4": (1, 4), "5-6": (5, 6), "7-8": (7, 8), "9-10": (9, 10), "11+": (11, 10**6)}
RESAMPLES = 1000
Answers = dict[str, list[list[str]]]
"""For each way of decoding the answers to each word, best first."""


def training_config(system: str, run: dict[str, object], given: list[str]) -> TrainingConfig:
    """Return how a neural system is trained in one run, with the options `given`."""
    return TrainingConfig.load(CONFIG, [*runs.as_options(SYSTEMS[system] | run), *given])


def test_words(config: TrainingConfig, most: int | None) -> dict[str, list[str]]:
    """Return the right pronunciations of each word of the test split, or of so many words, evenly from it."""
    from hf_vanilla.data.pairs import group_answers
    from hf_vanilla.training.tasks import TASKS

    right = group_answers(TASKS["translation"](config).load_corpus()["test"])
    step = max(1, len(right) // (most or len(right)))
    return dict(list(right.items())[::step][:most])


def answer_neurally(system: str, config: TrainingConfig, words: list[str]) -> tuple[runs.Result, Answers]:
    """Train a neural system, and return what it took and its answers."""
    from peers.training import train_peer

    from hf_vanilla import Translator
    from hf_vanilla.environment import hardware, keep_freed_memory, use_onednn_for_float32

    keep_freed_memory()
    use_onednn_for_float32()
    folder = Path(config.output_dir)
    found = train_peer(config, folder) if system == "marian" else runs.train_here(config)
    perplexity = found.get("final", found)["validation_perplexity"]
    translator = Translator.from_pretrained(folder, device="cpu")
    result = {"updates": found["updates"], "seconds": found["seconds"], "perplexity": perplexity}
    result |= {"parameters": translator.model.num_parameters(), "hardware": hardware()}
    answers: Answers = {}
    for name, search in DECODED.items():
        best = translator(words, **{"n_best": 1, **search})
        answers[name] = [[hypothesis.text for hypothesis in row] for row in best]
    for name in ("checkpoints", "snapshots", "best"):  # of no more use
        shutil.rmtree(folder / name, ignore_errors=True)
    return result, answers


def answer_by_phonetisaurus(config: TrainingConfig, words: list[str]) -> tuple[runs.Result, Answers]:
    """Train joint n-grams on the training split, and return what they took and their answers, alike for any search."""
    from phonetisaurus import predict, train

    from hf_vanilla.data.pairs import group_answers
    from hf_vanilla.environment import hardware
    from hf_vanilla.training.tasks import TASKS

    start, folder = time.monotonic(), Path(config.output_dir)
    pairs = group_answers(TASKS["translation"](config).load_corpus()["train"])
    lexicon = {word: [sounds.split() for sounds in several] for word, several in pairs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    train(lexicon, folder / "model.fst")
    result: runs.Result = {"seconds": time.monotonic() - start, "hardware": hardware()}
    found: dict[str, list[str]] = {}
    for word, sounds in predict(words, folder / "model.fst", nbest=5):
        found.setdefault(word, []).append(" ".join(sounds))
    best = [found.get(word, [""]) for word in words]
    first = [answers[:1] for answers in best]
    return result, {"greedy": first, "beam 4": first, "5 best": best}


def measure(system: str, config: TrainingConfig, most: int | None, threads: int) -> runs.Result:
    """Train a system, and leave result.json and answers.json in its folder; what it prints goes into output.txt."""
    import torch

    torch.set_num_threads(threads)
    folder = Path(config.output_dir).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a", encoding="utf-8") as log:
        for stream in (1, 2):  # of this process alone, and of the programs that it starts
            os.dup2(log.fileno(), stream)
    right = test_words(config, most)
    if system == "phonetisaurus":
        result, answers = answer_by_phonetisaurus(config, list(right))
    else:
        result, answers = answer_neurally(system, config, list(right))
    result |= {"system": system, "seed": config.seed, "threads": threads, "words": len(right)}
    result |= score(right, answers)
    kept = {"right": right, "answers": answers}
    runs.write_whole(folder / "answers.json", json.dumps(kept, ensure_ascii=False, indent=0))
    runs.write_whole(
        folder / "result.json", json.dumps(result | {"configuration": dataclasses.asdict(config)}, indent=1)
    )
    return result


def nearest(answer: str, right: list[str]) -> list[str]:
    """Return the phonemes of the right answer that has the lowest error rate for this one."""
    own = answer.split()
    return min((each.split() for each in right), key=lambda each: Levenshtein.distance(own, each) / len(each))


def count_errors(right: dict[str, list[str]], answers: list[list[str]]) -> np.ndarray:
    """Return for each word (words, 4): edits, phonemes, whether the first answer is wrong, and whether all are."""
    rows = []
    for several, own in zip(right.values(), answers, strict=True):
        target = nearest(own[0], several)
        edits = Levenshtein.distance(own[0].split(), target)
        rows.append((edits, len(target), own[0] not in several, not set(own) & set(several)))
    return np.array(rows, dtype=float)


def score(right: dict[str, list[str]], answers: Answers) -> runs.Result:
    """Return PER and WER of each way of decoding, recall of lists, WER by letters of the word, and confusions."""
    found: runs.Result = {}
    for name in ("greedy", "beam 4"):
        errors = count_errors(right, answers[name])
        found[name] = {"per": 100 * errors[:, 0].sum() / errors[:, 1].sum(), "wer": 100 * errors[:, 2].mean()}
    found["recall_5"] = 100 - 100 * count_errors(right, answers["5 best"])[:, 3].mean()
    wrong, lengths = count_errors(right, answers["beam 4"])[:, 2], np.array(list(map(len, right)))
    found["wer_by_letters"] = {}
    for name, (least, most) in LETTERS.items():
        if (chosen := (lengths >= least) & (lengths <= most)).any():
            found["wer_by_letters"][name] = {"wer": 100 * wrong[chosen].mean(), "words": int(chosen.sum())}
    confusions: Counter[tuple[str, str]] = Counter()
    for several, (first, *_) in zip(right.values(), answers["beam 4"], strict=True):
        own, target = first.split(), nearest(first, several)
        for kind, place, other in Levenshtein.editops(target, own):
            was = "-" if kind == "insert" else target[place]
            confusions[was, "-" if kind == "delete" else own[other]] += 1
    found["confusions"] = [[*pair, count] for pair, count in confusions.most_common(10)]
    return found


def intervals(folders: list[Path]) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each score of a system, by bootstrap over its runs and the words of the test."""
    random, found = np.random.default_rng(0), dict[str, tuple[float, float]]()
    kept = [json.loads((folder / "answers.json").read_text(encoding="utf-8")) for folder in folders]
    for name in DECODED:
        errors = np.stack([count_errors(each["right"], each["answers"][name]) for each in kept])
        resampled = []
        for _ in range(RESAMPLES):
            seeds = random.integers(len(errors), size=len(errors))
            weights = np.bincount(random.integers(errors.shape[1], size=errors.shape[1]), minlength=errors.shape[1])
            resampled.append(weights @ errors[seeds].sum(0))
        sums = np.array(resampled)
        times = len(errors) * errors.shape[1] / 100
        scores = {"per": 100 * sums[:, 0] / sums[:, 1], "wer": sums[:, 2] / times, "recall": 100 - sums[:, 3] / times}
        found |= {f"{name} {score}": tuple(np.percentile(of, (2.5, 97.5)).tolist()) for score, of in scores.items()}
    return found


def summarise(folder: Path, names: list[str]) -> list[runs.Result]:
    """Return what is kept of each run that is done in a folder: its result, and the intervals of all of a system."""
    kept = []
    for name, results in runs.results_by_name(folder, names).items():
        own = intervals([folder / f"{name}-seed{result['seed']}" for result in results])
        kept += [{"name": name, **result, "intervals": own} for result in results]
        for result in kept:
            result.pop("configuration", None)
    return kept


def report(kept: list[runs.Result]) -> str:
    """Return the tables of runs that [`summarise`] describes, in Markdown."""
    rows, by_letters, confused = [], [], []
    for name in dict.fromkeys(result["name"] for result in kept):
        results = [result for result in kept if result["name"] == name]
        own, cells = results[0]["intervals"], [name]
        cells += [f"{results[0]['parameters'] / 1e6:.2f} M" if "parameters" in results[0] else ""]
        cells += [runs.over_seeds(results, "updates", 0) if "updates" in results[0] else ""]
        cells += [runs.over_seeds([{"minutes": each["seconds"] / 60} for each in results], "minutes")]
        for decoded in ("greedy", "beam 4"):
            for measured in ("per", "wer"):
                low, high = own[f"{decoded} {measured}"]
                cells.append(f"{np.mean([each[decoded][measured] for each in results]):.2f} ({low:.2f}-{high:.2f})")
        low, high = own["5 best recall"]
        rows.append([*cells, f"{np.mean([each['recall_5'] for each in results]):.1f} ({low:.1f}-{high:.1f})"])
        rows[-1].append(str(len(results)))
        columns = results[0]["wer_by_letters"]
        parts = [runs.over_seeds([each["wer_by_letters"][part] for each in results], "wer") for part in columns]
        by_letters.append([name, *parts])
        told = ", ".join(f"{was} → {became} ({count})" for was, became, count in results[0]["confusions"])
        confused.append([name, told])
    rows += [[name, "", "", "", "", "", *scores] for name, scores in PUBLISHED.items()]
    columns = ["", "parameters", "updates", "minutes", "PER, greedy", "WER, greedy", "PER, beam 4", "WER, beam 4"]
    machines = " and ".join(sorted({result["hardware"] for result in kept}))
    first = kept[0]
    heading = f"{first['words']:,} words of the test split; {machines}; in brackets 95 % intervals."
    lengths = [f"{part} ({counted['words']:,})" for part, counted in first["wer_by_letters"].items()]
    tables = [
        runs.markdown_table([*columns, "right one among 5 best, %", "runs"], rows),
        "WER with beam 4 by the letters of the word (words):",
        runs.markdown_table(["", *lengths], by_letters),
        "The commonest confusions of the first run, right → given (-: nothing):",
        runs.markdown_table(["", "how often"], confused),
    ]
    return "\n\n".join([heading, *tables])


def draw_attention(model: Path, answers: Path, picture: Path) -> None:
    """Draw what the phonemes of the first long word that a model gets right look at among its letters."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from hf_vanilla.attention.figures import plot_alignment, save_figure
    from hf_vanilla.attention.reader import attention_maps

    kept = json.loads(answers.read_text(encoding="utf-8"))
    pairs = zip(kept["right"], kept["answers"]["beam 4"], strict=True)
    known = [(word, own[0]) for word, own in pairs if own[0] in kept["right"][word]]
    if not known:
        return
    word, sounds = next((pair for pair in known if len(pair[0]) > 9), max(known, key=lambda pair: len(pair[0])))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    save_figure(plot_alignment(attention_maps(*loaded, word, sounds).cross), picture)


def main() -> None:
    """Make the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for runs and tables")
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS), help="default: all")
    parser.add_argument("--words", type=int, help="test words to score, evenly from all (default: all)")
    parser.add_argument("--keep", type=Path, help="folder for a copy of the results, without the answers")
    runs.add_run_options(parser, seeds=(1, 2, 3), side_by_side=False)
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, which share the cores (default: 1)")
    options, given = parser.parse_known_args()
    wanted = list(options.systems)
    if "phonetisaurus" in wanted and not find_spec("phonetisaurus"):
        print("phonetisaurus is left out: pip install --no-deps phonetisaurus==0.3.0", flush=True)
        wanted.remove("phonetisaurus")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder, todo = options.folder, []
    try:
        done = runs.read_results(folder)
        for seed in options.seeds:
            for name in wanted if seed == options.seeds[0] else [each for each in wanted if each != "phonetisaurus"]:
                run = {"output_dir": folder / f"{name}-seed{seed}" / "model", "seed": seed}
                config = training_config(name, run, given)
                if (name, seed) not in done:
                    todo.append((name, config, options.words, max(1, cores // options.workers)))
                elif changes := runs.changes_since(done[name, seed]["configuration"], config):
                    parser.error(f"{run['output_dir'].parent}: {'; '.join(changes)}: choose another folder")
    except ValueError as error:
        parser.error(str(error))

    def tell(run: tuple, result: runs.Result | None, minutes_left: float) -> None:
        name = Path(run[1].output_dir).parent.name
        if result is None:
            print(f"{name} failed, see {folder / name / 'output.txt'}", flush=True)
            return
        told = f"PER {result['beam 4']['per']:.2f}, WER {result['beam 4']['wer']:.2f}"
        print(f"{name}: {told}; {minutes_left:.0f} minutes left", flush=True)

    with runs.saying_how_to_go_on():
        runs.side_by_side(measure, todo, options.workers, tell)
    kept: list[Any] = summarise(folder, list(SYSTEMS))
    if not kept:
        return
    first = next((each for each in kept if each["name"] == "transformer"), None)
    if first:
        own = folder / f"transformer-seed{first['seed']}"
        draw_attention(own / "model", own / "answers.json", folder / "attention.png")
    runs.publish(report(kept), folder / "g2p.md")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        runs.write_whole(options.keep / "results.json", json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_program(main)
