"""`hf-vanilla evaluate`: scores of a translation model on a test set."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from hf_vanilla.data.pairs import group_answers, reads_sequences
from hf_vanilla.training.yaml_files import read_yaml
from hf_vanilla.translation.score_choices import (
    FEWEST,
    SCORES,
    TOKENIZERS,
    TRANSLATION_SCORES,
    check_scores,
    require_tokenizer,
)

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

RECALL = "recall_among_beams"
"""The share, in percent, of sources that have an answer among the texts that the beams end with."""
NAMES = {"bleu": "BLEU", "chrf": "chrF", "chrf++": "chrF++", "ter": "TER", "comet": "COMET"}

# What evaluation.json holds for each subset of a test set: its name, how it was translated, and scores.
Scores = dict[str, str | int | float | None]


def _add_evaluate_options(add: AddArgument) -> None:
    add("model", help="folder or Hub id of a sequence-to-sequence model")
    add_corpus_options(add)
    add("--short", type=int, metavar="TOKENS", help="also score the pairs of at most this many tokens a side alone")
    add("--source", type=Path, help="text file instead of a corpus, one sentence a line")
    add("--reference", type=Path, action="append", help="translation of --source, line by line; may be repeated")
    add("--compare", metavar="MODEL", help="another model; also print how probable such a difference is by chance")
    names = ", ".join(SCORES)
    how = "the run's, or the first four for sentences, exact_match and an error rate for other sequences"
    add("--metrics", nargs="+", metavar="NAME", help=f"scores, of {names} (default: {how})")
    add("--tokenize", help=f"tokenizer of BLEU, {', '.join(TOKENIZERS)} (default: by language or script)")
    add("--comet", metavar="PATH", help="also score by this local checkpoint of COMET, with unbabel-comet installed")
    add("--json", action="store_true", help="print the scores as JSON, and nothing else")
    add("--show", type=int, default=5, help="number of translations to print (default: 5)")
    add_search_options(add)


def run_evaluate(options: argparse.Namespace) -> None:
    """Score what a model makes of a test set, with signatures: translations by BLEU, chrF, chrF++ and TER.

    Other sequences, such as letters and phonemes, are scored by exact match and an error rate, where the nearest of
    several answers counts, and with more than one beam by how often a right one is among what the beams end with.

    example: hf-vanilla evaluate runs/verses_demo --corpus verses
    """
    if bool(options.source) != bool(options.reference):
        raise ValueError("--source and --reference need each other")
    check_scores(options.metrics or ())
    if options.tokenize:
        require_tokenizer(options.tokenize)
    check_search(options)
    require(options, split=SPLITS, short=1, show=0)
    require_model(options.compare)
    require_files(options.source, *(options.reference or ()), options.target_path)
    translators = [load_translator(name, options) for name in (options.model, options.compare) if name]
    from hf_vanilla.models.texts_vanilla import encode_texts
    from hf_vanilla.translation.error_rates import RecallAmongBest
    from hf_vanilla.translation.loading import side_by_side

    translator, beams = translators[0], options.num_beams or translators[0].model.generation_config.num_beams or 1
    sources, references, everything = load_test_set(options, not translator.is_language)
    metrics_of = choose_metrics(options, sources, references, translator.tokenizer)
    is_own, everything = bool(everything), everything or f"{options.split} split of {options.corpus}"
    if wants_recall := not translator.is_language and beams > 1 and not options.compare:
        best = [
            [each.text for each in row] for row in translator(sources, num_beams=beams, n_best=beams, progress=True)
        ]
        translations, compared = [texts[0] for texts in best], []
    else:
        translations, *compared = (each(sources, num_beams=options.num_beams, progress=True) for each in translators)
    if not options.json:
        print(side_by_side(sources, translations, references, options.show), end="\n\n")
    subsets, most = {everything: list(range(len(sources)))}, max(map(len, references))
    if options.short:
        sides = [sources, [row[0] for row in references]]
        tokenizer = translator.tokenizer
        encoded = [encode_texts(tokenizer, sides[0])["input_ids"]]
        encoded.append(encode_texts(tokenizer, text_target=sides[1])["input_ids"])
        longest = list(map(max, *(map(len, side) for side in encoded)))
        short = [row for row, length in enumerate(longest) if length <= options.short]
        subsets[f"at most {options.short} tokens a side"] = short
    settings = {
        "split": None if options.source else options.split,
        "num_beams": beams,
        "precision": options.precision,
    }
    results: list[Scores] = []
    for name, rows in subsets.items():
        if not rows:
            raise ValueError(f"{name}: there is no such sentence")
        outputs = [[lines[row] for row in rows] for lines in (translations, *compared)]
        metrics = metrics_of(rows)
        if wants_recall:
            metrics = {**metrics, RECALL: RecallAmongBest(best).of(rows)}
        # Of several answers to a sequence, each is right; of several translations, others may have but the first.
        for count in sorted({most, 1 if translator.is_language else most}, reverse=True):
            right = [references[row][:count] for row in rows]
            results.append({"set": name, **settings, **score(outputs, right, metrics)})
            if not options.json:
                print(describe_scores(results[-1], options.compare))
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False))
    if is_own:
        record_evaluation(Path(options.model), results)


def choose_metrics(
    options: argparse.Namespace, sources: list[str], references: list[list[str]], tokenizer: Any
) -> Callable[[list[int]], Mapping[str, "Metric"]]:
    """Return a function that gives the metrics of a test set's rows, by name: the same for each subset."""
    from hf_vanilla.data.pairs import target_language
    from hf_vanilla.translation.comet import Comet
    from hf_vanilla.translation.metrics import build_metrics, of_equal_number
    from hf_vanilla.translation.symbols import default_metrics

    run = read_training_config(options.model)
    if not options.source:
        run = run | corpus_fields(options, run, "verses", {"source_column": "source", "target_column": "target"})
    names = options.metrics or run.get("metrics") or default_metrics(tokenizer, TRANSLATION_SCORES)
    metrics = dict(build_metrics(names, of_equal_number(references), target_language(run), options.tokenize))
    comet = Comet(options.comet, sources) if options.comet else None
    return lambda rows: metrics | ({"comet": comet.of(rows)} if comet else {})


def read_training_config(folder: str) -> dict[str, Any]:
    """Return the fields of the run that wrote `folder`, or none for another model."""
    path = Path(folder) / "training_config.yaml"
    return read_yaml(path) if path.is_file() else {}


def load_test_set(
    options: argparse.Namespace, sequences: bool | None = None
) -> tuple[list[str], list[list[str]], str]:
    """Return the sources that `options` ask for, the references of each, and a name for both.

    Of `sequences`, each source comes once, with all of its answers; by default, the tokenizer in the model's folder
    says whether they are.

    The name is empty for another corpus than the model's: it does not say what the model has learned from.
    """
    if options.source:
        sources, *files = read_parallel_files(options.source, *options.reference)
        return sources, list(map(list, zip(*files, strict=True))), str(options.source)
    defaults = {"target_path": None, "source_column": "source", "target_column": "target", "columns": None}
    sequences = reads_sequences(options.model) if sequences is None else sequences
    load = partial(hf_vanilla.load_corpus, sequences=sequences)
    pairs, is_own = load_split(options, load, "verses", defaults)
    name = f"all of the {options.split} split" if is_own else ""
    if sequences and "references" not in pairs[0]:
        answers = group_answers(pairs)
        return list(answers), list(answers.values()), name
    references = pairs["references"] if "references" in pairs[0] else [[text] for text in pairs["target"]]
    return list(pairs["source"]), [list(row) for row in references], name


def load_split(
    options: argparse.Namespace, load: Callable[..., Any], default: str, defaults: Mapping[str, object]
) -> tuple[Any, bool]:
    """Return a split by `load`, and whether it is that of the run in `options.model`, or this holds no run.

    The keys of `defaults`, columns and the like, are as the command line says, or else the run if it learned from this
    corpus, or else `defaults`.
    If the corpus of the run no longer gives the split that was held out, or never gave it, that is a ValueError. With
    --corpus it is a warning.
    """
    run = read_training_config(options.model)
    fields = corpus_fields(options, run, default, defaults)
    corpus = fields.pop("corpus")
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


def corpus_fields(
    options: argparse.Namespace, run: Mapping[str, Any], default: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the name of the `corpus` to read, and what `defaults` has keys for, as [`load_split`] says."""
    corpus = options.corpus or run.get("corpus", default)
    of_run = run if corpus == run.get("corpus") else {}
    given = {name: value for name in defaults if (value := getattr(options, name)) is not None}
    return {"corpus": corpus, **{name: of_run.get(name, value) for name, value in defaults.items()}, **given}


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


def score(outputs: list[list[str]], references: list[list[str]], metrics: Mapping[str, "Metric"]) -> Scores:
    """Return the scores of the first of one or two systems, with p-values of its difference from the second.

    There is None for what too few sentences cannot tell.
    """
    from hf_vanilla.translation.metrics import TranslationQuality, compare, of_equal_number

    (own, *others), references = outputs, of_equal_number(references)
    quality = TranslationQuality(metrics=metrics, intervals=True).compute(predictions=own, references=references)
    scores: Scores = {"references": max(map(len, references)), **quality}
    for other in others:
        scores |= {f"{name}_p_value": value for name, value in compare(own, other, references, metrics).items()}
    return scores


def describe_scores(scores: Scores, other: str | None) -> str:
    """Return a line of scores with their intervals and signatures, and one of their differences from an `other`."""
    names = [name.removesuffix("_signature") for name in scores if name.endswith("_signature")]
    values = []
    for name in names:
        digits, shown = 4 if name == "comet" else 1, NAMES.get(name, name.replace("_", " "))
        interval = scores[f"{name}_confidence"]
        width = "" if interval is None else f" ± {interval:.{digits}f}"
        values.append(f"{shown} {scores[name]:.{digits}f}{width} ({scores[f'{name}_signature']})")
    lines = ["{set}, {sentences} sentences, {references} reference(s): ".format_map(scores) + ", ".join(values)]
    if scores["sentences"] == 1:
        lines.append("  no intervals: one sentence has none")
    elif int(scores["sentences"] or 0) < FEWEST:
        lines.append("  so few sentences make intervals too narrow")
    if other:
        known = {name: p for name in names if (p := scores[f"{name}_p_value"]) is not None}
        told = ", ".join(f"{NAMES.get(name, name.replace('_', ' '))} {p:.3f}" for name, p in known.items())
        lines += [f"  so far from {other} by chance: {told}"] if known else []
        if len(known) < len(names):
            lines.append(f"  how probable other differences from {other} are by chance, so few sentences cannot tell")
    return "\n".join(lines)


def record_evaluation(folder: Path, results: list[Scores]) -> None:
    """Add scores to the records of a run, for its model's card; they replace what was measured in the same way."""
    from hf_vanilla.hub.model_card import EVALUATION, SUMMARY, current_evaluations, weights_digest, write_record

    weights = weights_digest(folder)
    if not (folder / SUMMARY).is_file() or weights is None:
        return
    way = itemgetter("set", "split", "references", "num_beams", "precision", "sentences")
    known = {way(scores): scores for scores in current_evaluations(folder)}
    for scores in results:
        # Other scores of the same translations stay; to whom a p-value compares is not recorded.
        kept = {name: value for name, value in known.pop(way(scores), {}).items() if not name.endswith("_p_value")}
        known[way(scores)] = {**kept, **scores, "weights": weights}
    write_record(folder / EVALUATION, list(known.values()))
    print(f"recorded in {folder / EVALUATION}, for the model's card", file=sys.stderr)


VERBS = {"evaluate": (_add_evaluate_options, run_evaluate)}
