"""`hf-vanilla evaluate`: scores of a translation model on a test set."""

import argparse
import json
import sys
from operator import itemgetter
from pathlib import Path

import hf_vanilla
from hf_vanilla.cli.options import (
    SPLITS,
    AddArgument,
    add_corpus_options,
    add_search_options,
    require,
    require_files,
    require_model,
)
from hf_vanilla.cli.translate import check_search, load_translator
from hf_vanilla.training.yaml_files import read_yaml

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
    check_search(options)
    require(options, split=SPLITS, short=1, show=0)
    require_model(options.compare)
    require_files(options.source, *(options.reference or ()), options.target_path)
    translators = [load_translator(name, options) for name in (options.model, options.compare) if name]
    from hf_vanilla.models.texts_vanilla import encode_texts
    from hf_vanilla.translation.loading import side_by_side

    sources, references, everything = load_test_set(options)
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
    record_evaluation(Path(options.model), results)


def read_training_config(folder: str) -> dict[str, str]:
    """Return the fields of the run that wrote `folder`, or none for another model."""
    path = Path(folder) / "training_config.yaml"
    return read_yaml(path) if path.is_file() else {}


def load_test_set(options: argparse.Namespace) -> tuple[list[str], list[list[str]], str]:
    """Return the sources that `options` ask for, the references of each, and a name for both."""
    if options.source:
        sources, *files = read_parallel_files(options.source, *options.reference)
        return sources, list(map(list, zip(*files, strict=True))), str(options.source)
    run = read_training_config(options.model)
    own = {} if options.corpus else run
    names = ("target_path", "source_column", "target_column")
    fields = {name: own.get(name, getattr(options, name)) for name in names}
    corpus = options.corpus or run.get("corpus", "verses")
    splits = hf_vanilla.load_corpus(corpus, configuration=run.get("corpus_configuration"), **fields)
    if run.get("streaming") and corpus == run["corpus"]:
        print("warning: a stream holds out other rows than these: some were trained on", file=sys.stderr)
    require(options, split=splits)
    pairs = splits[options.split]
    references = pairs["references"] if "references" in pairs.column_names else [[text] for text in pairs["target"]]
    return list(pairs["source"]), [list(row) for row in references], f"all of the {options.split} split"


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
