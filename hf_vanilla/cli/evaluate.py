"""`hf-vanilla evaluate`: scores of a translation model on a test set."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

import hf_vanilla
from hf_vanilla.cli.options import AddArgument, add_corpus_options, add_search_options, require
from hf_vanilla.cli.translate import load_translator

# What evaluation.json holds for each subset of a test set: its name, how it was translated, and scores.
Scores = dict[str, str | int | float | None]


def _add_evaluate_options(add: AddArgument) -> None:
    add("model", help="folder or Hub id of a sequence-to-sequence model")
    add_corpus_options(add)
    add("--short", type=int, metavar="TOKENS", help="also score the pairs of at most this many tokens a side alone")
    add("--source", type=Path, help="text file instead of a corpus, one sentence a line")
    add("--reference", type=Path, action="append", help="translation of --source, line by line; may be repeated")
    add("--compare", metavar="MODEL", help="another model; also print how probable such a difference is by chance")
    add("--json", action="store_true", help="print the scores as JSON, and nothing else")
    add("--show", type=int, default=5, help="number of translations to print (default: 5)")
    add_search_options(add)


def run_evaluate(options: argparse.Namespace) -> None:
    """Score translations of a test set by BLEU and chrF, with their signatures.

    example: hf-vanilla evaluate runs/verses_demo --corpus verses
    """
    if bool(options.source) != bool(options.reference):
        raise ValueError("--source and --reference need each other")
    translators = [load_translator(name, options) for name in (options.model, options.compare) if name]
    from hf_vanilla.models.texts_vanilla import encode_texts
    from hf_vanilla.translation.loading import side_by_side

    sources, references, everything = load_test_set(options)
    is_own, everything = bool(everything), everything or f"{options.split} split of {options.corpus}"
    translations, *compared = (each(sources, num_beams=options.num_beams, progress=True) for each in translators)
    if not options.json:
        print(side_by_side(sources, translations, references, options.show), end="\n\n")
    subsets = {everything: list(range(len(sources)))}
    if options.short:
        sides = [sources, [row[0] for row in references]]
        encoded = [encode_texts(translators[0].tokenizer, side)["input_ids"] for side in sides]
        longest = list(map(max, *(map(len, side) for side in encoded)))
        short = [row for row, length in enumerate(longest) if length <= options.short]
        subsets[f"at most {options.short} tokens a side"] = short
    settings = {
        "split": None if options.source else options.split,
        "num_beams": options.num_beams or translators[0].model.generation_config.num_beams or 1,
        "precision": options.precision,
    }
    results: list[Scores] = []
    for name, rows in subsets.items():
        if not rows:
            raise ValueError(f"{name}: there is no such sentence")
        outputs = [[lines[row] for row in rows] for lines in (translations, *compared)]
        for count in sorted({len(references[0]), 1}, reverse=True):
            scores = {"set": name, **settings, **score(outputs, [references[row][:count] for row in rows])}
            results.append(scores)
            if not options.json:
                print(
                    "{set}, {sentences} sentences, {references} reference(s): "
                    "BLEU {bleu:.1f} ± {bleu_confidence:.1f} ({bleu_signature}), "
                    "chrF {chrf:.1f} ± {chrf_confidence:.1f} ({chrf_signature})".format_map(scores)
                )
                if options.compare:
                    values = "BLEU {bleu_p_value:.3f}, chrF {chrf_p_value:.3f}".format_map(scores)
                    print(f"  so far from {options.compare} by chance: {values}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    if is_own:
        record_evaluation(Path(options.model), results)


def read_training_config(folder: str) -> dict[str, str]:
    """Return the fields of the run that wrote `folder`, or none for another model."""
    path = Path(folder) / "training_config.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load_test_set(options: argparse.Namespace) -> tuple[list[str], list[list[str]], str]:
    """Return the sources that `options` ask for, the references of each, and a name for both.

    The name is empty for another corpus than the model's: it does not say what the model has learned from.
    """
    if options.source:
        sources, *files = read_parallel_files(options.source, *options.reference)
        return sources, list(map(list, zip(*files, strict=True))), str(options.source)
    run = {} if options.corpus else read_training_config(options.model)
    names = ("target_path", "source_column", "target_column")
    fields = {name: run.get(name, getattr(options, name)) for name in names}
    pairs, is_own = load_split(options, hf_vanilla.load_corpus, "verses", fields)
    references = pairs["references"] if "references" in pairs[0] else [[text] for text in pairs["target"]]
    name = f"all of the {options.split} split"
    return list(pairs["source"]), [list(row) for row in references], name if is_own else ""


def load_split(
    options: argparse.Namespace, load: Callable[..., Any], default: str, fields: Mapping[str, object]
) -> tuple[Any, bool]:
    """Return a split by `load`, and whether it is that of the run in `options.model`, or this holds no run.

    If the corpus of the run no longer gives the split that was held out, or never gave it, that is a ValueError. With
    --corpus it is a warning.
    """
    run = read_training_config(options.model)
    corpus = options.corpus or run.get("corpus", default)
    from datasets import Dataset

    is_stream = bool(run.get("streaming") and corpus == run["corpus"])
    configuration = run.get("corpus_configuration") if corpus == run.get("corpus") else None
    splits = load(corpus, configuration=configuration, streaming=is_stream, **fields)
    require(options, split=splits)
    rows = splits[options.split]
    if is_stream:
        rows = Dataset.from_list(list(rows.take(10_000)))
    problem = find_other_rows(options.model, splits.fingerprints.get(options.split), options.split, corpus)
    if problem and not options.corpus:
        remedy = "give the corpus as it was, or texts by --source and --reference, or any corpus by --corpus"
        raise ValueError(f"{problem}: {remedy}")
    if problem:
        print(f"warning: {problem}; the scores are not recorded", file=sys.stderr)
    return rows, not problem


def find_other_rows(folder: str, fingerprint: str | None, split: str, corpus: str) -> str:
    """Return why rows with this fingerprint may be others than those of this split in the run in `folder`, or ""."""
    path = Path(folder) / "training_summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "configuration" not in summary:
        return ""
    from hf_vanilla.data.built_in import BUILT_IN

    prints, is_own = summary.get("splits", {}), corpus == summary["configuration"].get("corpus")
    known = prints.get(split)
    if (known and known == fingerprint) or (not prints and is_own and corpus in BUILT_IN):
        return ""
    if known is None:
        return f"{folder} does not record which rows of {corpus} it held out: it may have been trained on these"
    return f"{corpus} now has other rows in its {split} split than when {folder} was trained, which may have seen them"


def read_parallel_files(*paths: Path) -> list[list[str]]:
    """Return the lines of each text file; `ValueError` if the files are empty or differ in their number of lines."""
    from hf_vanilla.data.files import read_lines

    files = [list(read_lines(path)) for path in paths]
    for path, lines in zip(paths[1:], files[1:], strict=True):
        if len(lines) != len(files[0]) or not lines:
            raise ValueError(f"{paths[0]} has {len(files[0])} lines, {path} has {len(lines)}")
    return files


def score(outputs: list[list[str]], references: list[list[str]]) -> Scores:
    """Return the scores of the first of one or two systems, with p-values of its difference from the second."""
    from hf_vanilla.translation.metrics import TranslationQuality, compare, confidence

    own, *others = outputs
    quality = TranslationQuality().compute(predictions=own, references=references)
    scores: Scores = {"references": len(references[0]), **quality}
    scores |= {f"{metric}_confidence": width for metric, width in confidence(own, references).items()}
    for other in others:
        scores |= {f"{metric}_p_value": value for metric, value in compare(own, other, references).items()}
    return scores


def record_evaluation(folder: Path, results: list[Scores]) -> None:
    """Add scores to the records of a run, for its model's card; they replace what was measured in the same way."""
    from hf_vanilla.hub.model_card import EVALUATION, SUMMARY, current_evaluations, weights_digest, write_record

    weights = weights_digest(folder)
    if not (folder / SUMMARY).is_file() or weights is None:
        return
    way = itemgetter("set", "split", "references", "num_beams", "precision")
    known = [scores for scores in current_evaluations(folder) if way(scores) not in map(way, results)]
    write_record(folder / EVALUATION, [*known, *({**scores, "weights": weights} for scores in results)])
    print(f"recorded in {folder / EVALUATION}, for the model's card", file=sys.stderr)


VERBS = {"evaluate": (_add_evaluate_options, run_evaluate)}
