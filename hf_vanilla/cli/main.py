"""`hf-vanilla <verb>`: a thin dispatcher; what a verb needs beyond the package itself is imported inside it."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; bad input ends the program with one line that says what would be right."""
    parser = argparse.ArgumentParser(
        prog="hf-vanilla", description="Train and use Transformers, as the paper has them."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add_verb(name: str, help: str, example: str, **options: Any) -> argparse.ArgumentParser:
        epilog = f"example: {example}"
        return verbs.add_parser(name, help=help, description=help, epilog=epilog, allow_abbrev=False, **options)

    verb = add_verb(
        "train",
        "Train a model as a YAML file says; any of its fields can be set after it. "
        "The same command goes on with a run that was interrupted.",
        "hf-vanilla train scripts/configs/tiny.yaml --output_dir runs/mine --seed 2",
        add_help=False,
    )
    verb.add_argument("config", help="YAML file of these fields")
    verb.add_argument("-h", "--help", action=ExplainFields)

    verb = add_verb(
        "translate",
        "Translate a text line by line.",
        "echo 'In the beginning God made heaven.' | hf-vanilla translate runs/verses_demo",
    )
    verb.add_argument("model", help="folder or Hub id of a sequence-to-sequence model")
    verb.add_argument("--input", type=Path, help="text file, one sentence a line (default: standard input)")
    verb.add_argument("--output", type=Path, help="where the translations go (default: standard output)")
    add_search(verb)

    verb = add_verb(
        "generate",
        "Continue texts with a language model, token by token.",
        "hf-vanilla generate runs/causal_lm --prompt 'In the beginning'",
    )
    verb.add_argument("model", help="folder or Hub id of a causal language model")
    verb.add_argument(
        "--prompt",
        action="append",
        help="what the text begins with; may be repeated (default: standard input's lines)",
    )
    verb.add_argument("--max_new_tokens", type=int, default=100, help="(default: 100)")
    verb.add_argument("--temperature", type=float, default=1.0, help="0 takes the most probable token (default: 1)")
    verb.add_argument("--top_k", type=int, default=50, help="sample among so many tokens, 0 for all (default: 50)")
    verb.add_argument("--top_p", type=float, default=1.0, help="... that have this probability together (default: 1)")
    verb.add_argument("--num_beams", type=int, default=1, help="above 1: beam search, no sampling (default: 1)")
    verb.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")

    verb = add_verb(
        "evaluate",
        "BLEU and chrF, with signatures, on the test split of a corpus.",
        "hf-vanilla evaluate runs/verses_demo --corpus verses",
    )
    verb.add_argument("model", help="folder or Hub id of a sequence-to-sequence model")
    verb.add_argument("--corpus", help="as for train (default: what the model was trained on, its test split)")
    verb.add_argument("--target_path", help="the target side, if the corpus is a text file")
    verb.add_argument("--source_column", default="source", help="(default: source)")
    verb.add_argument("--target_column", default="target", help="(default: target)")
    verb.add_argument("--split", default="test", help="train, validation or test (default: test)")
    verb.add_argument("--short", type=int, help="also score the pairs of at most so many tokens a side alone")
    verb.add_argument("--source", type=Path, help="a text file instead of a corpus, one sentence a line")
    verb.add_argument(
        "--reference", type=Path, action="append", help="its translation, as many lines; may be repeated"
    )
    verb.add_argument(
        "--compare", metavar="MODEL", help="another model: how likely is so great a difference by chance"
    )
    verb.add_argument("--json", action="store_true", help="print the scores as JSON, and nothing else")
    verb.add_argument("--show", type=int, default=5, help="how many translations to print (default: 5)")
    add_search(verb)

    verb = add_verb(
        "convert",
        "Convert a checkpoint of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART or torch.nn.Transformer into one of "
        "ours, or one of ours into theirs.",
        "hf-vanilla convert google-bert/bert-base-uncased runs/bert",
    )
    verb.add_argument(
        "source", help="folder or Hub id, in safetensors; or a safetensors file of a torch.nn.Transformer"
    )
    verb.add_argument("folder", type=Path, help="where it goes")
    verb.add_argument(
        "--to", help="for one of ours: bert, roberta, distilbert, gpt2, marian or bart (default: the first that fits)"
    )
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the configuration that the source does not tell, as num_attention_heads=8 for a "
        "torch.nn.Transformer; may be repeated",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a model that is there")

    verb = add_verb(
        "attend",
        "What the heads of a model look at: as a page, as a figure, or over a corpus.",
        "hf-vanilla attend runs/verses_demo --source 'In the beginning God made heaven.' --html attention.html",
    )
    verb.add_argument("model", help="folder or Hub id of any model of transformers that gives attentions")
    verb.add_argument("--source", help="the text")
    verb.add_argument("--target", help="its translation, its continuation, or its second half (default: the model's)")
    verb.add_argument("--max_new_tokens", type=int, help="how many tokens the model writes; a decoder by default none")
    verb.add_argument("--words", action="store_true", help="join tokens into words; the page does it by a switch, too")
    verb.add_argument("--html", type=Path, metavar="FILE", help="where the page goes")
    verb.add_argument("--figure", type=Path, metavar="FILE", help="where a figure goes: PNG, SVG or PDF")
    verb.add_argument("--kind", help="encoder, decoder or cross (default: the last of these that there is)")
    verb.add_argument(
        "--plot",
        help="grid (all heads), heads (those of a layer, with words), lines (from words to words) or alignment (one "
        "matrix) (default: alignment of cross-attention, else heads)",
    )
    verb.add_argument("--layer", type=int, help="from 1 (default: the last; for an alignment the last but one)")
    verb.add_argument("--head", type=int, help="from 1 (default: all; for an alignment their mean)")
    verb.add_argument("--word", help="the only one whose lines are drawn")
    verb.add_argument("--dark", action="store_true", help="light on dark")
    verb.add_argument(
        "--survey", action="store_true", help="what each head does over a corpus: a table, and a --figure"
    )
    verb.add_argument("--corpus", help="as for train (default: what the model was trained on)")
    verb.add_argument("--target_path", help="the target side, if the corpus is a text file")
    verb.add_argument("--source_column", default="source", help="(default: source)")
    verb.add_argument("--target_column", default="target", help="(default: target)")
    verb.add_argument("--text_column", default="text", help="for models of one stack (default: text)")
    verb.add_argument("--split", default="test", help="train, validation or test (default: test)")
    verb.add_argument("--input", type=Path, help="a text file instead of a corpus, one text a line")
    verb.add_argument("--reference", type=Path, help="its translation, as many lines")
    verb.add_argument("--gold", type=Path, help="its alignments, as many lines: 0-0 1-2 2?1 (source-target, from 0)")
    verb.add_argument(
        "--sentences", type=int, default=100, help="at most so many, evenly from the whole (default: 100)"
    )
    verb.add_argument(
        "--effect",
        default="perplexity",
        help="what to measure with each head switched off: perplexity, bleu or none (default: perplexity)",
    )
    verb.add_argument("--json", action="store_true", help="print the survey as JSON")

    verb = add_verb(
        "export",
        "Write a translation model as another engine reads it.",
        "hf-vanilla export runs/verses_demo exported --format ctranslate2",
    )
    verb.add_argument("model", help="folder or Hub id of a sequence-to-sequence model")
    verb.add_argument("folder", type=Path, help="where it goes; it must not exist, or be empty")
    verb.add_argument("--format", required=True, help="ctranslate2 or onnx")

    verb = add_verb(
        "push",
        "Send a model to the Hub, with card, code and records, once it was seen to load without hf_vanilla.",
        "hf-vanilla push runs/verses_demo user/verses --tag v1.0",
    )
    verb.add_argument("model", type=Path, help="folder of a run, or of a model and its tokenizer")
    verb.add_argument("repo_id", help="user/name; made if it is not there")
    add_card(verb)
    verb.add_argument("--private", action="store_true", default=None, help="if it is made, others do not see it")
    verb.add_argument("--revision", default="main", help="branch; made if it is not there (default: main)")
    verb.add_argument("--tag", help="a name for this state, such as v1.0")
    verb.add_argument("--message", help="of the commit (default: what changed)")
    verb.add_argument("--max_shard_size", default="5GB", help="weights beyond this are split (default: 5GB)")
    verb.add_argument("--space", action="store_true", help="also a Space that translates and shows attention")
    verb.add_argument("--dry_run", "--dry-run", action="store_true", help="print files and sizes, and send nothing")

    verb = add_verb(
        "card",
        "Write the card of a model, and the records and pictures that it is made of.",
        "hf-vanilla card runs/verses_demo user/verses model_cards/verses",
    )
    verb.add_argument("model", type=Path, help="folder of a run, or of a model and its tokenizer")
    verb.add_argument("repo_id", help="user/name, for the code in the card")
    verb.add_argument("folder", type=Path, help="where they go")
    add_card(verb)

    add_verb("env", "What is in force here, for a report of a defect or of a speed.", "hf-vanilla env")

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.verb != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(format="%(message)s")
    # What is dropped from a corpus, for one; said once, however many processes there are.
    logging.getLogger("hf_vanilla").setLevel(logging.WARNING if int(os.environ.get("RANK", 0)) else logging.INFO)
    try:
        from hf_vanilla.environment import keep_freed_memory

        keep_freed_memory()
        runs = {
            "train": run_train,
            "translate": run_translate,
            "generate": run_generate,
            "evaluate": run_evaluate,
            "convert": run_convert,
            "attend": run_attend,
            "export": run_export,
            "push": run_push,
            "card": run_card,
            "env": run_env,
        }
        runs[options.verb](options, rest)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"hf-vanilla {options.verb}: {error}")
    except KeyboardInterrupt:
        print(f"hf-vanilla {options.verb}: interrupted", file=sys.stderr)
        sys.exit(130)


class ExplainFields(argparse.Action):
    """Help on `train`: that of its own, and each field of a configuration."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"nargs": 0, "help": "show this help message and exit"}))

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> NoReturn:
        from hf_vanilla.training.config import TrainingConfig

        print(parser.format_help())
        fields = TrainingConfig.parser(parser.prog).format_help()
        print("fields of CONFIG.yaml, and options after it:", fields[fields.index("\n  --task") :], sep="")
        sys.exit(0)


def add_search(verb: argparse.ArgumentParser) -> None:
    """The options of each verb that translates."""
    verb.add_argument("--num_beams", type=int, help="1 is greedy (default: the model's generation config)")
    verb.add_argument(
        "--precision",
        default="float32",
        help="float32, bfloat16, float16 or int8: less is faster, and on CPU int8 most so (default: float32)",
    )
    verb.add_argument(
        "--batch_tokens",
        type=int,
        default=4096,
        help="source tokens, times beams, translated together (default: 4096)",
    )


def load_translator(name: str, options: argparse.Namespace) -> Any:
    """A model, to translate as the options of `add_search` say."""
    from hf_vanilla.translation.translator import Translator

    return Translator.from_pretrained(name, precision=options.precision, batch_tokens=options.batch_tokens)


def add_card(verb: argparse.ArgumentParser) -> None:
    """The options of each verb that writes a card."""
    verb.add_argument("--languages", nargs="+", metavar="CODE", help="such as en de (default: the built-in corpus's)")
    license_help = "of the weights (default: apache-2.0 if `hf-vanilla train` began with new ones, else none)"
    verb.add_argument("--license", help=license_help)


def run_train(options: argparse.Namespace, overrides: list[str]) -> None:
    """`hf-vanilla train`."""
    from hf_vanilla.training.config import TrainingConfig
    from hf_vanilla.training.loop import train

    command = shlex.join(["hf-vanilla", "train", options.config, *overrides])
    folder = train(TrainingConfig.load(options.config, overrides), command)
    if not int(os.environ.get("RANK", 0)):
        print(f"saved in {folder}")


def run_translate(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla translate`."""
    from hf_vanilla.translation.files import identity_of, texts_of_lines, translate_file
    from hf_vanilla.translation.translator import POOL

    if options.input and (not options.input.exists() or options.input.is_dir()):
        raise FileNotFoundError(f"{options.input}: no such file")
    if options.output and (options.output.is_dir() or not options.output.parent.is_dir()):
        raise FileNotFoundError(f"{options.output}: not a file in a folder that exists")
    if not options.input and sys.stdin is None:
        raise ValueError("standard input is closed: give --input")
    translator = load_translator(options.model, options)
    search = {"num_beams": options.num_beams}
    bad: list[int] = []
    if options.input and options.input.is_file() and options.output and not is_special(options.output):
        settings = {"precision": options.precision, "batch_tokens": options.batch_tokens, **search}
        identity = identity_of(translator, options.model, **settings)
        bad = translate_file(translator, options.input, options.output, identity, **search)
    else:
        with ExitStack() as opened:
            lines: Any = opened.enter_context(options.input.open("rb")) if options.input else sys.stdin.buffer
            out: Any = sys.stdout
            if options.output:
                out = opened.enter_context(options.output.open("w", encoding="utf-8", newline="\n"))
            elif hasattr(out, "reconfigure"):
                out.reconfigure(encoding="utf-8")
            # A reader at the terminal waits for each line, a pipe for many.
            pool = 1 if lines.isatty() else POOL
            for text in translator.stream(texts_of_lines(lines, bad), pool=pool, **search):
                out.write(f"{text}\n")
                out.flush()
    if bad:
        some = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(f"{options.input or 'standard input'}: not UTF-8, and left empty: line {some}")


def run_generate(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla generate`."""
    from transformers import set_seed

    from hf_vanilla.translation.files import texts_of_lines
    from hf_vanilla.translation.text_generation import write_on

    for name, least in (("max_new_tokens", 1), ("temperature", 0), ("top_k", 0), ("num_beams", 1)):
        if not getattr(options, name) >= least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"--top_p must be above 0 and at most 1, got {options.top_p}")
    if not options.prompt and sys.stdin is None:
        raise ValueError("standard input is closed: give --prompt")
    set_seed(options.seed)
    bad: list[int] = []
    names = ("max_new_tokens", "num_beams", "temperature", "top_k", "top_p")
    prompts = options.prompt or texts_of_lines(sys.stdin.buffer, bad)
    write_on(options.model, prompts, **{name: getattr(options, name) for name in names})
    if bad:
        raise ValueError(f"standard input: not UTF-8, and taken for empty: line {', '.join(map(str, bad))}")


def is_special(path: Path) -> bool:
    """Whether it is there and no file: a pipe or a device, which must be written to, not replaced."""
    return path.exists() and not path.is_file()


def load_test_set(options: argparse.Namespace) -> tuple[list[str], list[list[str]], str]:
    """Sources, their references, and a name for both."""
    import yaml

    from hf_vanilla.data.corpora import load_corpus
    from hf_vanilla.data.files import read_lines

    if options.source or options.reference:
        if not (options.source and options.reference):
            raise ValueError("--source and --reference need each other")
        files = [list(read_lines(path)) for path in (options.source, *options.reference)]
        for path, lines in zip(options.reference, files[1:], strict=True):
            if len(lines) != len(files[0]) or not lines:
                raise ValueError(f"{options.source} has {len(files[0])} lines, {path} has {len(lines)}")
        return files[0], [list(row) for row in zip(*files[1:], strict=True)], str(options.source)
    trained = Path(options.model) / "training_config.yaml"
    run = yaml.safe_load(trained.read_text(encoding="utf-8")) if trained.is_file() else {"corpus": "verses"}
    if options.corpus is None:
        options.corpus = run["corpus"]
        for name in ("target_path", "source_column", "target_column"):
            setattr(options, name, run.get(name, getattr(options, name)))
    corpus = load_corpus(
        options.corpus,
        options.target_path,
        source_column=options.source_column,
        target_column=options.target_column,
        configuration=run.get("corpus_configuration"),
    )
    if run.get("streaming") and options.corpus == run["corpus"]:
        print("warning: a stream holds out other rows than these: some were trained on", file=sys.stderr)
    if options.split not in corpus:
        raise ValueError(f"split is {options.split!r}; expected one of {', '.join(corpus)}")
    pairs = corpus[options.split]
    references = pairs["references"] if "references" in pairs.column_names else [[text] for text in pairs["target"]]
    name = f"all of the {options.split} split"
    return list(pairs["source"]), [list(row) for row in references], name


def run_evaluate(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla evaluate`."""
    import json

    from hf_vanilla.translation.loading import side_by_side
    from hf_vanilla.translation.metrics import TranslationQuality, compare, confidence

    translators = [load_translator(name, options) for name in (options.model, options.compare) if name]
    translator = translators[0]
    sources, references, everything = load_test_set(options)
    translations, *compared = (each(sources, num_beams=options.num_beams, progress=True) for each in translators)
    others = compared[0] if compared else []
    if not options.json:
        print(side_by_side(sources, translations, references, options.show), end="\n\n")
    subsets = {everything: list(range(len(sources)))}
    if options.short:
        sides = [sources, [row[0] for row in references]]
        longest = list(map(max, *(map(len, translator.tokenizer(side)["input_ids"]) for side in sides)))
        subsets[f"at most {options.short} tokens a side"] = [
            row for row, length in enumerate(longest) if length <= options.short
        ]
    results = []
    for name, rows in subsets.items():
        if not rows:
            raise ValueError(f"{name}: there is no such sentence")
        for count in sorted({len(references[0]), 1}, reverse=True):
            own = [translations[row] for row in rows]
            chosen = [references[row][:count] for row in rows]
            scores = {
                "set": name,
                "split": None if options.source else options.split,
                "num_beams": options.num_beams or translator.model.generation_config.num_beams or 1,
                "precision": options.precision,
                "references": count,
                **TranslationQuality().compute(predictions=own, references=chosen),
            }
            scores |= {f"{metric}_confidence": width for metric, width in confidence(own, chosen).items()}
            if others:
                chances = compare(own, [others[row] for row in rows], chosen)
                scores |= {f"{metric}_p_value": value for metric, value in chances.items()}
            results.append(scores)
            if not options.json:
                print(
                    f"{name}, {len(rows)} sentences, {count} reference(s): "
                    f"BLEU {scores['bleu']:.1f} ± {scores['bleu_confidence']:.1f} ({scores['bleu_signature']}), "
                    f"chrF {scores['chrf']:.1f} ± {scores['chrf_confidence']:.1f} ({scores['chrf_signature']})"
                )
                if others:
                    print(
                        f"  so far from {options.compare} by chance: BLEU {scores['bleu_p_value']:.3f}, "
                        f"chrF {scores['chrf_p_value']:.3f}"
                    )
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    record_evaluation(Path(options.model), results)


def record_evaluation(folder: Path, results: list[dict[str, Any]]) -> None:
    """Add scores to the records of a run, for its model's card, in the place of what was measured in the same way."""
    from hf_vanilla.hub.model_card import EVALUATION, SUMMARY, current_evaluations, weights_digest
    from hf_vanilla.hub.staging import write_json

    weights = weights_digest(folder)
    if not (folder / SUMMARY).is_file() or weights is None:
        return
    way = itemgetter("set", "split", "references", "num_beams", "precision")
    known = [scores for scores in current_evaluations(folder) if way(scores) not in map(way, results)]
    write_json(folder / EVALUATION, [*known, *({**scores, "weights": weights} for scores in results)])
    print(f"recorded in {folder / EVALUATION}, for the model's card", file=sys.stderr)


def run_convert(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla convert`."""
    import yaml

    from hf_vanilla.conversion.convert import convert

    fields = {}
    for setting in options.set:
        name, equals, value = setting.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--set {setting}: expected FIELD=VALUE, as in num_attention_heads=8")
        fields[name] = yaml.safe_load(value)
    done = convert(options.source, options.folder, options.to, options.overwrite, **fields)
    print(f"written to {options.folder}: {done}")


def run_attend(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla attend`."""
    from hf_vanilla.attention.figures import FORMATS, save_figure
    from hf_vanilla.attention.reader import attention_maps, load_model

    if options.survey == (options.source is not None):
        raise ValueError("give either a text (--source) or --survey")
    if not options.survey and not options.html and not options.figure:
        raise ValueError("say what to write: --html FILE, --figure FILE, or both")
    if options.survey and options.html:
        raise ValueError("--survey prints a table and draws a --figure; it makes no --html")
    if options.figure and options.figure.suffix.lower() not in FORMATS:
        raise ValueError(f"--figure {options.figure}: expected a file that ends in one of {', '.join(FORMATS)}")
    for path in filter(None, (options.html, options.figure)):
        if path.is_dir() or not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: not a file in a folder that exists")
    theme = "dark" if options.dark else "light"
    if options.survey:
        found = survey_of(options)
        if options.figure:
            save_figure(found.plot(theme), options.figure)
        print(found.to_json() if options.json else found.to_markdown())
        return
    model, tokenizer = load_model(options.model)
    maps = attention_maps(
        model, tokenizer, options.source, options.target, words=options.words, max_new_tokens=options.max_new_tokens
    )
    if options.figure:
        save_figure(figure_of(maps, options, theme), options.figure)
    if options.html:
        maps.save_html(options.html)
    print(f"written to {' and '.join(str(path) for path in (options.html, options.figure) if path)}")


def figure_of(maps: Any, options: argparse.Namespace, theme: str) -> Any:
    """The figure that `hf-vanilla attend` was asked for; there, layers and heads are counted from 1."""
    from hf_vanilla.attention.figures import plot_alignment, plot_grid, plot_heads, plot_lines

    attention = maps[options.kind or list(maps.kinds)[-1]]
    numbers = {}
    for name, count in zip(("layer", "head"), attention.weights.shape[:2], strict=True):
        number = getattr(options, name)
        if number is not None and not 1 <= number <= count:
            raise ValueError(f"--{name} is {number}; expected 1 to {count}")
        numbers[name] = None if number is None else number - 1
    layer = -1 if numbers["layer"] is None else numbers["layer"]
    heads = None if numbers["head"] is None else [numbers["head"]]
    plots = {
        "grid": lambda: plot_grid(attention, theme),
        "heads": lambda: plot_heads(attention, layer, theme),
        "lines": lambda: plot_lines(attention, layer, heads, options.word, theme),
        "alignment": lambda: plot_alignment(attention, **numbers, theme=theme),
    }
    plot = options.plot or ("alignment" if attention.kind == "cross" else "heads")
    if plot not in plots:
        raise ValueError(f"--plot is {plot!r}; expected one of {', '.join(plots)}")
    return plots[plot]()


def survey_of(options: argparse.Namespace) -> Any:
    """What the heads do over the texts that `hf-vanilla attend --survey` was asked for."""
    import yaml

    from hf_vanilla.attention.reader import load_model
    from hf_vanilla.attention.survey import read_alignments, survey
    from hf_vanilla.attention.switching import EFFECTS
    from hf_vanilla.data.corpora import load_texts
    from hf_vanilla.data.files import read_lines
    from hf_vanilla.translation.translator import SENTENCE_END

    if options.sentences < 1:
        raise ValueError(f"--sentences must be at least 1, got {options.sentences}")
    if options.effect not in EFFECTS:
        raise ValueError(f"--effect is {options.effect!r}; expected one of {', '.join(EFFECTS)}")
    if (options.reference or options.gold) and not options.input or options.gold and not options.reference:
        raise ValueError("--gold needs --input and --reference, --reference needs --input")
    model, tokenizer = load_model(options.model)
    targets: list[str] | None = None
    gold = None
    if options.input:
        sources = list(read_lines(options.input))
        targets = list(read_lines(options.reference)) if options.reference else None
        gold = read_alignments(options.gold) if options.gold else None
        for path, lines in ((options.reference, targets), (options.gold, gold)):
            if lines is not None and len(lines) != len(sources):
                raise ValueError(f"{options.input} has {len(sources)} lines, {path} has {len(lines)}")
    elif model.config.is_encoder_decoder:
        sources, references, _ = load_test_set(argparse.Namespace(**vars(options) | {"source": None, "reference": []}))
        targets = [row[0] for row in references]
    else:
        trained = Path(options.model) / "training_config.yaml"
        run = yaml.safe_load(trained.read_text(encoding="utf-8")) if trained.is_file() else {"corpus": "bible"}
        corpus = load_texts(options.corpus or run["corpus"], text_column=options.text_column)
        if options.split not in corpus:
            raise ValueError(f"split is {options.split!r}; expected one of {', '.join(corpus)}")
        texts = corpus[options.split]["text"]
        sources = [part.strip() for text in texts for part in SENTENCE_END.split(text) if part.strip()]
    rows = range(0, len(sources), max(1, len(sources) // options.sentences))[: options.sentences]
    chosen = [None if each is None else [each[row] for row in rows] for each in (sources, targets, gold)]
    return survey(model, tokenizer, *chosen[:2], gold=chosen[2], metric=options.effect, progress=not options.json)  # type: ignore[arg-type]


def run_export(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla export`."""
    from hf_vanilla.conversion.export import export

    export(options.model, options.format, options.folder)
    print(f"written to {options.folder}")


def run_push(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla push`."""
    from hf_vanilla.hub.push import push

    names = ("private", "revision", "tag", "message", "languages", "license", "space", "max_shard_size", "dry_run")
    page = push(options.model, options.repo_id, **{name: getattr(options, name) for name in names})
    print(f"{'would be' if options.dry_run else 'see'} {page}")


def run_card(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla card`."""
    from hf_vanilla.hub.push import write_card

    write_card(options.model, options.folder, options.repo_id, options.languages, options.license)
    print(f"written to {options.folder}")


def run_env(options: argparse.Namespace, _: list[str]) -> None:
    """`hf-vanilla env`."""
    from hf_vanilla.environment import describe, use_onednn_for_float32

    use_onednn_for_float32()  # as the other verbs do
    for name, value in describe().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
