"""Table 4 of the paper: English constituency parsing (section 6.3), beside a recurrent model and simple parsers.

    python scripts/reproduce_table4.py runs/table4                        # 25 minutes on one core
    python scripts/reproduce_table4.py runs/table4 --systems transformer --seeds 1
    python scripts/reproduce_table4.py runs/quick --seeds 1 --max_steps 20 --warmup_steps 5 --test_trees 20
    python scripts/reproduce_table4.py runs/step --one_step               # of the paper's model, at its full size
    python scripts/reproduce_table4.py runs/wsj --treebank WSJ --systems paper

A model reads words and writes the tree as labelled brackets and parts of speech, "(S (NP DT NN )NP (VP VBZ )VP )S"
(Vinyals et al., 2015, arXiv:1412.7449), a token each. As in the paper, the beam is 21, alpha 0.3, and an output has at
most 300 tokens more than the source. Malformed sequences are mended, and scored as by evalb (evaluate_trees.py).

The treebank is generated (generate_treebank.py), unless --treebank names a folder with train.mrg and test.mrg in Penn
Treebank's notation; 1 in 20 training trees is held out. All systems start by Xavier's rule. In a seed, "recurrent" and
"transformer" make as many updates of equal batches; "longer" is the latter in the time that the former takes. OWN and
parsing_small.yaml have the best of 1e-3, 2e-3 and 4e-3 for each, by validation perplexity after a warm-up of a tenth:

    python scripts/reproduce_table4.py runs/table4-1e-3 --learning_rate 1e-3 --seeds 0 --test_trees 1      # and so on

A run that is done is not done again, one that was interrupted goes on where it was, and the table (FOLDER/table4.md)
shows all that are done. FOLDER/SYSTEM-seedN holds result.json, predicted.mrg and the trained model.
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

import torch
from accelerate import PartialState
from filelock import FileLock, Timeout
from paper import runs
from paper.parsers import MostFrequentTree, RightBranching, TreebankGrammar
from paper.treebank import write_treebank
from paper.trees import Tree, delinearise, linearise, read_treebank, score
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from hf_vanilla import beam_search
from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.models.static_generation_vanilla import make_decoder
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.run_log import read_records

CONFIGS = Path(__file__).parent / "configs" / "paper"
SYSTEMS = {
    "recurrent": ("recurrent, additive attention", "88.3 (Vinyals et al., 2014)"),
    "transformer": ("Transformer, small", "91.3 (4 layers, d_model 1024)"),
    "longer": ("the same, in the time that the recurrent model takes", "91.3 (4 layers, d_model 1024)"),
    "paper": ("Transformer of the paper's size", "91.3"),
}
"""Their names in the table, and the F1 of their like in Table 4, trained on WSJ only and tested on its section 23."""
OWN = {
    "recurrent": "--architecture recurrent --attention_type additive --hidden_size 160 --learning_rate 4e-3".split(),
    "transformer": ["--initializer", "xavier"],  # the recurrent model starts by the same rule in any case
    "longer": ["--initializer", "xavier", "--max_steps", "3400"],
}
BASELINES = {
    "right-branching, gold tags": RightBranching,
    "most frequent tree of the tags, gold tags": lambda trees: MostFrequentTree(trees, RightBranching(trees)),
    "treebank grammar, gold tags": lambda trees: TreebankGrammar(trees, RightBranching(trees)),
}
BEAMS, ALPHA, EXTRA_TOKENS = 21, 0.3, 300
BEAM_TOKENS = 8192  # source tokens searched together, times beams
LONG = 12
TRAIN_TREES, TEST_TREES = 20_000, 500
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def without_empty_elements(tree: Tree) -> Tree | None:
    """Return a tree without -NONE- elements, which stand for no word, or None if nothing is left."""
    if tree.is_word:
        return None if tree.label == "-NONE-" else tree
    children = tuple(child for each in tree.children if (child := without_empty_elements(each)))
    return Tree(tree.label, children) if children else None


def make_tokenizer(trees: Sequence[Tree], vocab_size: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of brackets, tags, the most frequent words, and unused tokens up to `vocab_size`."""
    outputs = {token for tree in trees for token in linearise(tree).split()}
    words = Counter(word for tree in trees for word in tree.words())
    special = SPECIAL_TOKENS.values()
    tokens = list(dict.fromkeys([*special, *sorted(outputs), *(word for word, _ in words.most_common())]))
    if vocab_size <= len(SPECIAL_TOKENS) + len(outputs):
        raise ValueError(f"vocab_size is {vocab_size}; these trees have {len(outputs)} brackets and tags alone")
    tokens += [f"<unused{number}>" for number in range(vocab_size - len(tokens))]
    vocabulary = {token: number for number, token in enumerate(tokens[:vocab_size])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS, clean_up_tokenization_spaces=False)


def prepare(folder: Path, treebank: Path | None) -> tuple[list[Tree], list[Tree], int]:
    """Return trees to learn from, which also become the corpus FOLDER/train.jsonl, test trees, and their checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    if treebank is None:
        treebank = folder / "treebank"
        if not (treebank / "test.mrg").exists():
            treebank.mkdir(exist_ok=True)
            write_treebank(treebank, TRAIN_TREES, TEST_TREES, seed=0)
    read = (read_treebank(treebank / f"{name}.mrg") for name in ("train", "test"))
    training, test = ([kept for tree in trees if (kept := without_empty_elements(tree))] for trees in read)
    rows = ({"source": " ".join(tree.words()), "target": linearise(tree)} for tree in training)
    text, path = "".join(f"{json.dumps(row)}\n" for row in rows), folder / "train.jsonl"
    if not path.exists():
        runs.write_whole(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds runs on other trees. Choose another folder")
    return training, test, zlib.crc32((text + "".join(map(str, test))).encode())


def training_config(system: str, seed: int, folder: Path, given: list[str]) -> TrainingConfig:
    """Return the configuration of a run: that of configs/paper, with the options `given`."""
    name = "parsing.yaml" if system == "paper" else "parsing_small.yaml"
    own = ["--output_dir", str(folder / f"{system}-seed{seed}" / "model"), "--seed", str(seed)]
    own += ["--corpus", str(folder / "train.jsonl"), "--tokenizer", str(folder / f"tokenizer-{Path(name).stem}")]
    return TrainingConfig.load(CONFIGS / name, OWN.get(system, []) + given + own)


@torch.inference_mode()
def parse(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, trees: Sequence[Tree]) -> tuple[list[Tree], int]:
    """Return the trees that a model finds for the words of trees, and how many of its outputs were malformed."""
    order = sorted(range(len(trees)), key=lambda i: -len(trees[i].leaves()))
    outputs = [""] * len(trees)
    search = {"custom_generate": beam_search, "incremental_decoder": make_decoder(model), "do_sample": False}
    search |= {"num_beams": BEAMS, "length_penalty": ALPHA, "max_extra_tokens": EXTRA_TOKENS}
    with tqdm(total=len(trees), desc="parsing", unit=" sentences", mininterval=1) as bar:
        while order:
            size = max(1, BEAM_TOKENS // (BEAMS * (len(trees[order[0]].leaves()) + 1)))
            rows, order = order[:size], order[size:]
            texts = [" ".join(trees[i].words()) for i in rows]
            batch = encode_texts(tokenizer, texts, padding=True, return_tensors="pt", return_token_type_ids=False)
            batch = batch.to(model.device)
            longest = batch["input_ids"].shape[1] + EXTRA_TOKENS
            sequences = model.generate(**batch, **search, max_new_tokens=longest)
            for i, text in zip(rows, tokenizer.batch_decode(sequences, skip_special_tokens=True), strict=True):
                outputs[i] = text
            bar.update(len(rows))
    found = [delinearise(text, tree.leaves()) for text, tree in zip(outputs, trees, strict=True)]
    return [tree for tree, _ in found], sum(not correct for _, correct in found)


def scores_of(test: Sequence[Tree], predicted: Sequence[Tree]) -> dict[str, float]:
    """Return the scores of all trees, with `f1_long` and `sentences_long` of those of more than LONG words."""
    long = [i for i, tree in enumerate(test) if len(tree.leaves()) > LONG]
    of_long = score([test[i] for i in long], [predicted[i] for i in long])
    return score(test, predicted) | {"f1_long": of_long["f1"], "sentences_long": len(long)}


def train_quietly(config: TrainingConfig) -> runs.Result:
    """Train in this process, whose output goes into output.txt beside the model, and return the run's summary."""
    folder = Path(config.output_dir).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return runs.train_here(config)


def run(config: TrainingConfig, test: Sequence[Tree]) -> runs.Result:
    """Train one model, parse with it, and score the trees."""
    summary, folder = train_quietly(config), Path(config.output_dir)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).to(PartialState().device).eval()
    start = time.monotonic()
    predicted, malformed = parse(model, AutoTokenizer.from_pretrained(folder), test)
    runs.write_whole(folder.parent / "predicted.mrg", "".join(f"{tree}\n" for tree in predicted))
    own = {"malformed": malformed, "parsing_seconds": time.monotonic() - start, "parameters": model.num_parameters()}
    return {**scores_of(test, predicted), **own, **runs.pick(summary, "configuration")}


def one_step(folder: Path, given: list[str]) -> str:
    """Make one update of the paper's model at its full size, and say what it takes."""
    config = training_config("paper", 1, folder, [*given, "--max_steps", "1", "--accumulation_steps", "16"])
    summary, path = train_quietly(config), Path(config.output_dir)
    record = next(record for record in read_records(path / "log.jsonl") if "seconds_per_update" in record)
    return (
        f"one update of {AutoModelForSeq2SeqLM.from_pretrained(path).num_parameters():,} parameters with "
        f"{summary['target_tokens']:,} target tokens (in 16 parts): {record['seconds_per_update']:.0f} s, "
        f"{record['memory_gib']:.1f} GiB, loss {record['loss']:.3f}; {summary['hardware']}, "
        f"mixed precision {summary['mixed_precision']}"
    )


def report(folder: Path, baselines: dict[str, runs.Result]) -> str:
    """Return the table of the baselines and of all that is done, in Markdown, below a line about it."""
    scored = ("precision", "recall", "f1", "f1_long", "complete_match")
    rows = [[name, "", *(f"{scores[column]:.1f}" for column in scored)] for name, scores in baselines.items()]
    done = runs.results_by_name(folder, SYSTEMS)
    for system, results in done.items():
        cells = [runs.over_seeds(results, column) for column in (*scored, "malformed", "other_words")]
        cells += [f"{results[0]['parameters']:,}", runs.over_seeds(results, "perplexity", 4)]
        cells += [runs.over_seeds(results, column, 0) for column in ("seconds", "parsing_seconds")]
        rows.append([*SYSTEMS[system], *cells, str(len(results))])
    about, every = next(iter(baselines.values())), [result for results in done.values() for result in results]
    heading = f"{about['sentences']} test trees, {about['sentences_long']} of them of more than {LONG} words"
    for updates, tokens in sorted({(each["updates"], f"{each['target_tokens'] / 1e6:.2f}") for each in every}):
        heading += f"; {updates:,} updates, {tokens} million target tokens"
    heading += "".join(f"; {hardware}" for hardware in sorted({each["hardware"] for each in every}))
    columns = ["", "F1 in the paper", "precision", "recall", "F1", f"F1, more than {LONG} words", "complete match"]
    columns += ["malformed", "other words", "parameters", "perplexity", "training s", "parsing s", "seeds"]
    return f"{heading}. Mean ± standard deviation over seeds.\n\n{runs.markdown_table(columns, rows)}"


def check_done(
    done: dict[tuple[str, int], runs.Result], folder: Path, given: list[str], identity: runs.Result
) -> None:
    """Raise a ValueError if a result in the folder is of other settings or trees."""
    for (system, seed), result in done.items():
        changes = runs.changes_since(result["configuration"], training_config(system, seed, folder, given))
        changes += [f"{name} was {result[name]}, now {now}" for name, now in identity.items() if result[name] != now]
        if changes:
            path = folder / f"{system}-seed{seed}" / "result.json"
            raise ValueError(f"{path} is of other settings: {'; '.join(changes)}. Choose another folder")


def provide_tokenizer(config: TrainingConfig, trees: Sequence[Tree]) -> None:
    """Make the tokenizer of a run where it is missing; raise a ValueError if it is there and has another size."""
    if not (Path(str(config.tokenizer)) / "tokenizer.json").exists():
        make_tokenizer(trees, config.vocab_size).save_pretrained(str(config.tokenizer))
    elif (size := len(AutoTokenizer.from_pretrained(config.tokenizer))) != config.vocab_size:
        raise ValueError(f"{config.tokenizer} has {size} tokens, not {config.vocab_size}: another folder, please")


def baseline_scores(path: Path, training: Sequence[Tree], test: Sequence[Tree]) -> dict[str, runs.Result]:
    """Return the scores of the baselines, from a file if it is there, else anew, and write it."""
    if not path.exists():
        scores = {}
        for name, make in BASELINES.items():
            parser = make(training)
            scores[name] = scores_of(test, [parser.parse(tree.leaves()) for tree in tqdm(test, desc=name)])
        runs.write_whole(path, json.dumps(scores, indent=1))
    return json.loads(path.read_text(encoding="utf-8"))


def reproduce(folder: Path, options: argparse.Namespace, given: list[str], parser: argparse.ArgumentParser) -> None:
    """Do the runs that are missing, and write the table of all."""
    wanted = [(system, seed) for seed in dict.fromkeys(options.seeds) for system in dict.fromkeys(options.systems)]
    try:
        configs = {run: training_config(*run, folder, given) for run in wanted}
        training, test, checksum = prepare(folder, options.treebank)
        test, identity = test[: options.test_trees], {"treebank": checksum, "test_trees": options.test_trees}
        done = {run: result for run, result in runs.read_results(folder).items() if run[0] in SYSTEMS}
        check_done(done, folder, given, identity)
        for config in [training_config("paper", 1, folder, given)] if options.one_step else configs.values():
            provide_tokenizer(config, training)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.one_step:
        print(one_step(folder, given))
        return
    baselines = baseline_scores(folder / f"baselines-{checksum}-{len(test)}.json", training, test)
    for number, (system, seed) in enumerate(wanted, start=1):
        if (system, seed) in done:
            continue
        try:
            result = identity | run(configs[system, seed], test)
        except (OSError, ValueError) as error:
            sys.exit(f"reproduce_table4.py: {system}, seed {seed}: {error}")
        runs.write_whole(folder / f"{system}-seed{seed}" / "result.json", json.dumps(result, indent=1))
        line = f"{number}/{len(wanted)} {system}, seed {seed}: F1 {result['f1']:.1f}, complete match "
        line += f"{result['complete_match']:.1f} %, {result['seconds']:.0f} + {result['parsing_seconds']:.0f} s"
        print(line, flush=True)
    runs.publish(report(folder, baselines), folder / "table4.md")


def main() -> None:
    """Read the options, and do the runs while no other process is at the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for treebank, runs and table")
    parser.add_argument("--treebank", type=Path, help="folder with train.mrg and test.mrg (default: generate them)")
    chosen = ["recurrent", "transformer", "longer"]
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=chosen, help=f"(default: {' '.join(chosen)})")
    runs.add_run_options(parser, seeds=(1, 2, 3), side_by_side=False)
    parser.add_argument("--test_trees", type=int, help="number of test trees to parse (default: all)")
    parser.add_argument("--one_step", action="store_true", help="only make one update of the paper's model")
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
    with runs.saying_how_to_go_on(), lock:
        reproduce(folder, options, given, parser)


if __name__ == "__main__":
    run_program(main)
