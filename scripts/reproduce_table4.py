"""Table 4 of the paper: English constituency parsing (section 6.3), beside a recurrent model and simple parsers.

    python scripts/reproduce_table4.py runs/table4                        # 20 minutes on one core
    python scripts/reproduce_table4.py runs/table4 --systems transformer --seeds 1
    python scripts/reproduce_table4.py runs/quick --seeds 1 --max_steps 20 --warmup_steps 5 --test_trees 20
    python scripts/reproduce_table4.py runs/step --one_step               # of the paper's model, at its full size
    python scripts/reproduce_table4.py runs/wsj --treebank WSJ --systems paper

A model reads words and writes the tree as a sequence (Vinyals et al., 2015, arXiv:1412.7449) of labelled brackets and
parts of speech, "(S (NP DT NN )NP (VP VBZ )VP )S"; each word, bracket and part of speech is one token. As in the
paper, a beam of 21, alpha 0.3, at most 300 tokens more than the source has. Brackets alone are scored, as evalb does
(scripts/evaluate_trees.py), those of malformed sequences once they are mended.

The treebank is generated (scripts/generate_treebank.py), unless --treebank names a folder with train.mrg and test.mrg,
trees in the Penn Treebank's notation. All runs of a seed make as many updates with the same batches; of the training
trees 1 in 20 is held out, half of them for validation, the test trees are others.

A run that is done is not done again, one that was interrupted goes on where it was, and the table (FOLDER/table4.md)
is of all that are done. FOLDER/SYSTEM-seedN holds result.json, predicted.mrg and the trained model.
"""

import argparse
import contextlib
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from baseline_parsers import MostFrequentTree, RightBranching, TreebankGrammar
from evaluate_trees import Tree, delinearise, linearise, read_treebank, score
from filelock import FileLock, Timeout
from generate_treebank import generate
from reproduce_table3 import over_seeds
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_vanilla import beam_search
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.loop import train
from hf_vanilla.translation.translator import make_incremental

CONFIGS = Path(__file__).parent / "configs" / "paper"
SYSTEMS = {
    "recurrent": ("recurrent, additive attention", "88.3 (Vinyals et al., 2014)"),
    "transformer": ("Transformer, small", "91.3 (4 layers, d_model 1024)"),
    "paper": ("Transformer of the paper's size", "91.3"),
}
"""What the table calls them, and F1 of the like in Table 4: trained on WSJ only, tested on its section 23."""
RECURRENT = ["--architecture", "recurrent", "--attention_type", "additive", "--hidden_size", "160"]
RECURRENT += ["--learning_rate", "3e-3", "--warmup_steps", "100"]  # at 2e-3 and 3e-3 the Transformer learns little
BASELINES = {
    "right-branching, gold tags": lambda trees: RightBranching(trees),
    "most frequent tree of the tags, gold tags": lambda trees: MostFrequentTree(trees, RightBranching(trees)),
    "treebank grammar, gold tags": lambda trees: TreebankGrammar(trees, RightBranching(trees)),
}
BEAMS, ALPHA, EXTRA_TOKENS = 21, 0.3, 300
BEAM_TOKENS = 8192  # source tokens searched together, times beams
LONG = 12
TRAIN_TREES, TEST_TREES = 20_000, 500
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]


def without_empty_elements(tree: Tree) -> Tree | None:
    """A tree without what stands for no word, which models do not read, and other parsers would learn from."""
    if tree.is_word:
        return None if tree.label == "-NONE-" else tree
    children = tuple(child for each in tree.children if (child := without_empty_elements(each)))
    return Tree(tree.label, children) if children else None


def source_of(tree: Tree) -> str:
    """What a model reads: the words."""
    return " ".join(leaf.children[0] for leaf in tree.leaves())


def make_tokenizer(trees: Sequence[Tree], vocab_size: int) -> PreTrainedTokenizerFast:
    """Brackets, tags and the most frequent words, as many as there is room for; what room is left stays unused.

    Raises:
        ValueError: there is room for no word.
    """
    outputs = Counter(token for tree in trees for token in linearise(tree).split())
    words = Counter(word for tree in trees for word in source_of(tree).split())
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *sorted(outputs), *(word for word, _ in words.most_common())]))
    if vocab_size <= len(SPECIAL_TOKENS) + len(outputs):
        raise ValueError(f"vocab_size is {vocab_size}; these trees have {len(outputs)} brackets and tags alone")
    tokens += [f"<unused{number}>" for number in range(vocab_size - len(tokens))]
    vocabulary = {token: number for number, token in enumerate(tokens[:vocab_size])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, clean_up_tokenization_spaces=False)


def prepare(folder: Path, treebank: Path | None) -> tuple[list[Tree], list[Tree], int]:
    """The trees to learn from and those to test with, the former as a corpus in FOLDER/train.jsonl; and a checksum.

    Raises:
        ValueError: the folder is of other trees.
    """
    if treebank is None:
        treebank = folder / "treebank"
        if not (treebank / "test.mrg").exists():
            treebank.mkdir(parents=True, exist_ok=True)
            trees = list(generate(TRAIN_TREES + TEST_TREES, seed=0))
            for name, part in (("train", trees[:TRAIN_TREES]), ("test", trees[TRAIN_TREES:])):
                unfinished = treebank / f"{name}.unfinished"
                unfinished.write_text("".join(f"{tree}\n" for tree in part), encoding="utf-8")
                unfinished.replace(treebank / f"{name}.mrg")
    read = (read_treebank(treebank / f"{name}.mrg") for name in ("train", "test"))
    training, test = ([kept for tree in trees if (kept := without_empty_elements(tree))] for trees in read)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"source": source_of(tree), "target": linearise(tree)}) for tree in training]
    text = "".join(f"{row}\n" for row in rows)
    path = folder / "train.jsonl"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds runs on other trees. Choose another folder")
    return training, test, zlib.crc32((text + "".join(map(str, test))).encode())


def training_config(system: str, seed: int, folder: Path, given: list[str]) -> TrainingConfig:
    """That of configs/paper, with the options `given`."""
    name = "parsing.yaml" if system == "paper" else "parsing_small.yaml"
    own = ["--output_dir", str(folder / f"{system}-seed{seed}" / "model"), "--seed", str(seed)]
    own += ["--corpus", str(folder / "train.jsonl"), "--tokenizer", str(folder / f"tokenizer-{Path(name).stem}")]
    return TrainingConfig.load(CONFIGS / name, [*(RECURRENT if system == "recurrent" else []), *given, *own])


@torch.inference_mode()
def parse(model: Any, tokenizer: Any, trees: Sequence[Tree]) -> tuple[list[Tree], int]:
    """What a model makes of the words of trees, and how many of its outputs were not well-formed."""
    order = sorted(range(len(trees)), key=lambda i: -len(trees[i].leaves()))
    decoder, outputs = make_incremental(model), [""] * len(trees)
    with tqdm(total=len(trees), desc="parsing", unit=" sentences", mininterval=1) as bar:
        while order:
            size = max(1, BEAM_TOKENS // (BEAMS * (len(trees[order[0]].leaves()) + 1)))
            rows, order = order[:size], order[size:]
            batch = tokenizer([source_of(trees[i]) for i in rows], padding=True, return_tensors="pt").to(model.device)
            sequences = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                custom_generate=beam_search,
                incremental_decoder=decoder,
                num_beams=BEAMS,
                length_penalty=ALPHA,
                max_extra_tokens=EXTRA_TOKENS,
                max_new_tokens=batch["input_ids"].shape[1] + EXTRA_TOKENS,
                do_sample=False,
            )
            for i, text in zip(rows, tokenizer.batch_decode(sequences, skip_special_tokens=True), strict=True):
                outputs[i] = text
            bar.update(len(rows))
    found = [delinearise(text, tree.leaves()) for text, tree in zip(outputs, trees, strict=True)]
    return [tree for tree, _ in found], sum(not correct for _, correct in found)


def scores_of(test: Sequence[Tree], predicted: Sequence[Tree]) -> dict[str, float]:
    """Those of all trees, and `f1_long` of those of more than LONG words."""
    long = [i for i, tree in enumerate(test) if len(tree.leaves()) > LONG]
    of_long = score([test[i] for i in long], [predicted[i] for i in long])
    return score(test, predicted) | {"f1_long": of_long["f1"], "sentences_long": len(long)}


def run_training(config: TrainingConfig) -> Path:
    """Train in this process; samples go into output.txt beside the model."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = Path(config.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "output.txt").open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return train(config)


def run(config: TrainingConfig, test: Sequence[Tree]) -> dict[str, Any]:
    """Train one model, parse with it, and score the trees."""
    folder = run_training(config)
    summary = json.loads((folder / "training_summary.json").read_text(encoding="utf-8"))
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).to(PartialState().device).eval()
    start = time.monotonic()
    predicted, malformed = parse(model, AutoTokenizer.from_pretrained(folder), test)
    (folder.parent / "predicted.mrg").write_text("".join(f"{tree}\n" for tree in predicted), encoding="utf-8")
    return {
        **scores_of(test, predicted),
        "malformed": malformed,
        "parsing_seconds": time.monotonic() - start,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "perplexity": summary["final"]["validation_perplexity"],
        **{name: summary[name] for name in ("updates", "epochs", "seconds", "target_tokens", "hardware")},
        "configuration": summary["configuration"],
    }


def one_step(folder: Path, given: list[str]) -> str:
    """One update of the paper's model at its full size: what it takes."""
    config = training_config("paper", 1, folder, [*given, "--max_steps", "1", "--accumulation_steps", "16"])
    path = run_training(config)
    log = [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    record = next(record for record in log if "seconds_per_update" in record)
    model = AutoModelForSeq2SeqLM.from_pretrained(path)
    summary = json.loads((path / "training_summary.json").read_text(encoding="utf-8"))
    return (
        f"one update of {sum(weight.numel() for weight in model.parameters()):,} parameters with "
        f"{summary['target_tokens']:,} target tokens (in 16 parts): {record['seconds_per_update']:.0f} s, "
        f"{record['memory_gib']:.1f} GiB, loss {record['loss']:.3f}; {summary['hardware']}, "
        f"mixed precision {summary['mixed_precision']}"
    )


def report(folder: Path, baselines: dict[str, dict[str, float]]) -> str:
    """The table of all that is done, in Markdown."""
    columns = ("precision", "recall", "f1", "f1_long", "complete_match")
    lines = [
        f"| | F1 in the paper | precision | recall | F1 | F1, more than {LONG} words | complete match | malformed | "
        "other words | parameters | perplexity | training s | parsing s | seeds |",
        "|---" * 14 + "|",
    ]
    for name, scores in baselines.items():
        lines.append("| " + " | ".join([name, "", *(f"{scores[column]:.1f}" for column in columns)]) + " |" * 8)
    every = []
    for system, (name, paper) in SYSTEMS.items():
        paths = sorted(folder.glob(f"{system}-seed*/result.json"))
        if not (results := [json.loads(path.read_text(encoding="utf-8")) for path in paths]):
            continue
        every += results
        cells = [name, paper, *(over_seeds(results, column) for column in columns)]
        cells += [over_seeds(results, "malformed"), over_seeds(results, "other_words")]
        cells += [f"{results[0]['parameters']:,}", over_seeds(results, "perplexity", 4)]
        cells += [over_seeds(results, "seconds", 0), over_seeds(results, "parsing_seconds", 0), str(len(results))]
        lines.append("| " + " | ".join(cells) + " |")
    about = next(iter(baselines.values()))
    heading = f"{about['sentences']} test trees, {about['sentences_long']} of them of more than {LONG} words"
    for updates, tokens in sorted({(each["updates"], f"{each['target_tokens'] / 1e6:.2f}") for each in every}):
        heading += f"; {updates:,} updates, {tokens} million target tokens"
    heading += "".join(f"; {each}" for each in sorted({each["hardware"] for each in every}))
    return "\n".join([f"{heading}. Mean ± standard deviation over seeds.", "", *lines])


def main() -> None:
    """Do the runs that are missing, then report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where treebank, runs and table go")
    parser.add_argument("--treebank", type=Path, help="folder with train.mrg and test.mrg (default: generate them)")
    chosen = ["recurrent", "transformer"]
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=chosen, help=f"(default: {' '.join(chosen)})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument("--test_trees", type=int, help="parse so many of the test trees only")
    parser.add_argument("--one_step", action="store_true", help="make one update of the paper's model, and no table")
    options, given = parser.parse_known_args()
    if options.test_trees is not None and options.test_trees < 1:
        parser.error(f"--test_trees must be at least 1, got {options.test_trees}")
    use_onednn_for_float32()
    keep_freed_memory()
    folder = options.folder.resolve()
    try:
        for system in options.systems:
            training_config(system, options.seeds[0], folder, given)  # before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        parser.error(f"another process is at {folder}: wait for it, or choose another folder")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        with lock:
            reproduce(folder, options, given, parser)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from there")


def reproduce(folder: Path, options: argparse.Namespace, given: list[str], parser: argparse.ArgumentParser) -> None:
    """Do the runs that are missing, and write the table of all."""
    runs = [(system, seed) for seed in dict.fromkeys(options.seeds) for system in dict.fromkeys(options.systems)]
    try:
        there = [path.parent.name.rpartition("-seed") for path in folder.glob("*-seed*/result.json")]
        every = dict.fromkeys([*runs, *((system, int(seed)) for system, _, seed in there if system in SYSTEMS)])
        configs = {each: training_config(*each, folder, given) for each in every}
        training, test, checksum = prepare(folder, options.treebank)
        test, identity = test[: options.test_trees], {"treebank": checksum, "test_trees": options.test_trees}
        paths = {each: folder / "{}-seed{}".format(*each) / "result.json" for each in every}
        done = {each: json.loads(path.read_text(encoding="utf-8")) for each, path in paths.items() if path.exists()}
        for each, result in done.items():
            changes = configs[each].changes(result["configuration"])
            if (steps := result["configuration"]["max_steps"]) != configs[each].max_steps:
                changes.append(f"max_steps was {steps}, now {configs[each].max_steps}")
            changes += [
                f"{name} was {result[name]}, now {now}" for name, now in identity.items() if result[name] != now
            ]
            if changes:
                raise ValueError(f"{paths[each]} is of other settings: {'; '.join(changes)}. Choose another folder")
        wanted = [training_config("paper", 1, folder, given)] if options.one_step else [configs[each] for each in runs]
        for config in wanted:
            if not (Path(str(config.tokenizer)) / "tokenizer.json").exists():
                make_tokenizer(training, config.vocab_size).save_pretrained(str(config.tokenizer))
            elif (size := len(AutoTokenizer.from_pretrained(config.tokenizer))) != config.vocab_size:
                raise ValueError(
                    f"{config.tokenizer} has {size} tokens, not {config.vocab_size}: another folder, please"
                )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.one_step:
        print(one_step(folder, given))
        return
    path = folder / f"baselines-{checksum}-{len(test)}.json"
    if not path.exists():
        baselines = {}
        for name, make in BASELINES.items():
            baseline = make(training)
            baselines[name] = scores_of(test, [baseline.parse(tree.leaves()) for tree in tqdm(test, desc=name)])
        path.write_text(json.dumps(baselines, indent=1), encoding="utf-8")
    for number, each in enumerate(runs, start=1):
        if each in done:
            continue
        try:
            result = identity | run(configs[each], test)
        except (OSError, ValueError) as error:
            sys.exit(f"reproduce_table4.py: {each[0]}, seed {each[1]}: {error}")
        unfinished = paths[each].with_suffix(".unfinished")
        unfinished.write_text(json.dumps(result, indent=1), encoding="utf-8")
        unfinished.replace(paths[each])
        print(
            f"{number}/{len(runs)} {each[0]}, seed {each[1]}: F1 {result['f1']:.1f}, complete match "
            f"{result['complete_match']:.1f} %, {result['seconds']:.0f} + {result['parsing_seconds']:.0f} s",
            flush=True,
        )
    table = report(folder, json.loads(path.read_text(encoding="utf-8")))
    (folder / "table4.md").write_text(f"{table}\n", encoding="utf-8")
    print(f"\n{table}\n\nwritten: {folder / 'table4.md'}")


if __name__ == "__main__":
    main()
