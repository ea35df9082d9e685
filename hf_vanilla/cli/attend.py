"""`hf-vanilla attend`: what the heads of a model look at."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hf_vanilla.cli.evaluate import load_test_set, read_parallel_files, read_training_config, split_of
from hf_vanilla.cli.options import (
    EFFECTS,
    FIGURE_FORMATS,
    add_corpus_options,
    require_at_least,
    require_choice,
    require_writable,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_vanilla.attention.maps import AttentionMaps
    from hf_vanilla.attention.survey import Survey

PLOTS = ("grid", "heads", "lines", "alignment")


def _add_attend_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder or Hub id of any model of transformers that gives attentions")
    add("--source", help="text to look at")
    add("--target", help="its translation, its continuation, or its second half (default: what the model writes)")
    add("--max_new_tokens", type=int, help="most tokens the model writes as the target; a decoder by default none")
    add("--words", action="store_true", help="join tokens into words; the page has a switch for it, too")
    add("--html", type=Path, metavar="FILE", help="write a page to this file")
    add("--figure", type=Path, metavar="FILE", help="draw a figure into this file: PNG, SVG or PDF by its ending")
    add("--kind", help="encoder, decoder or cross (default: the last of these that the model has)")
    add(
        "--plot",
        help="grid (all heads), heads (those of a layer, with words), lines (from words to words) or alignment (one "
        "matrix) (default: alignment of cross-attention, else heads)",
    )
    add("--layer", type=int, help="layer to draw, from 1 (default: the last; for an alignment the last but one)")
    add("--head", type=int, help="head to draw, from 1 (default: all; for an alignment their mean)")
    add("--word", help="draw only the lines of this word")
    add("--dark", action="store_true", help="draw light on dark")
    add("--survey", action="store_true", help="print a table of what each head does over a corpus, or draw a --figure")
    add_corpus_options(parser)
    add("--text_column", default="text", help="column for a model of one stack, such as BERT or GPT (default: text)")
    add("--input", type=Path, help="text file instead of a corpus, one text a line")
    add("--reference", type=Path, help="translation of --input, line by line")
    add("--gold", type=Path, help="alignments of --input, line by line: 0-0 1-2 2?1 (source-target, from 0)")
    sentences_help = "number of sentences to sample evenly from the corpus (default: 100)"
    add("--sentences", type=int, default=100, help=sentences_help)
    effect_help = "score to measure with each head switched off: perplexity, bleu or none (default: perplexity)"
    add("--effect", default="perplexity", help=effect_help)
    add("--json", action="store_true", help="print the survey as JSON")


def run_attend(options: argparse.Namespace) -> None:
    """Show what the heads of a model look at: as a page, as a figure, or as a table over a corpus.

    example: hf-vanilla attend runs/verses_demo --source 'In the beginning God made heaven.' --html attention.html
    """
    check_attend_options(options)
    from hf_vanilla.attention.figures import save_figure
    from hf_vanilla.attention.reader import attention_maps, load_attention_model
    from hf_vanilla.environment import keep_freed_memory

    keep_freed_memory()
    theme = "dark" if options.dark else "light"
    if options.survey:
        found = survey_corpus(options)
        if options.figure:
            save_figure(found.plot(theme), options.figure)
        print(found.to_json() if options.json else found.to_markdown())
        return
    model, tokenizer = load_attention_model(options.model)
    maps = attention_maps(
        model, tokenizer, options.source, options.target, words=options.words, max_new_tokens=options.max_new_tokens
    )
    if options.figure:
        save_figure(draw_figure(maps, options, theme), options.figure)
    if options.html:
        maps.save_html(options.html)
    print(f"written to {' and '.join(str(path) for path in (options.html, options.figure) if path)}")


def check_attend_options(options: argparse.Namespace) -> None:
    """Raise `ValueError` or `FileNotFoundError` for options that contradict each other or cannot be met."""
    if options.survey == (options.source is not None):
        raise ValueError("give either a text (--source) or --survey")
    if not options.survey and not options.html and not options.figure:
        raise ValueError("say what to write: --html FILE, --figure FILE, or both")
    if options.survey and options.html:
        raise ValueError("--survey prints a table and draws a --figure; it makes no --html")
    if options.figure and options.figure.suffix.lower() not in FIGURE_FORMATS:
        raise ValueError(f"--figure {options.figure}: expected a file that ends in one of {', '.join(FIGURE_FORMATS)}")
    require_writable(options.html, options.figure)
    require_choice(options, "plot", PLOTS)
    require_choice(options, "effect", EFFECTS)
    require_at_least(options, max_new_tokens=1, sentences=1)
    if (options.reference or options.gold) and not options.input or options.gold and not options.reference:
        raise ValueError("--gold needs --input and --reference, --reference needs --input")


def draw_figure(maps: "AttentionMaps", options: argparse.Namespace, theme: str) -> "Figure":
    """Return the figure that `options` ask for; there, layers and heads are counted from 1.

    Raises:
        ValueError: there is no such kind of attention, layer, head or word.
    """
    from hf_vanilla.attention.figures import plot_alignment, plot_grid, plot_heads, plot_lines

    attention = maps[options.kind or list(maps.kinds)[-1]]
    numbers = []
    for name, count in zip(("layer", "head"), attention.weights.shape[:2], strict=True):
        number = getattr(options, name)
        if number is not None and not 1 <= number <= count:
            raise ValueError(f"--{name} is {number}; expected 1 to {count}")
        numbers.append(None if number is None else number - 1)
    layer, head = numbers
    plot = options.plot or ("alignment" if attention.kind == "cross" else "heads")
    if plot == "alignment":
        return plot_alignment(attention, layer, head, theme)
    if plot == "grid":
        return plot_grid(attention, theme)
    layer = -1 if layer is None else layer
    if plot == "heads":
        return plot_heads(attention, layer, theme)
    return plot_lines(attention, layer, None if head is None else [head], options.word, theme)


def survey_corpus(options: argparse.Namespace) -> "Survey":
    """Return what the heads do over the texts that `options` ask for."""
    from hf_vanilla.attention.reader import load_attention_model
    from hf_vanilla.attention.survey import read_alignments, survey
    from hf_vanilla.data.corpora import load_texts
    from hf_vanilla.translation.translator import SENTENCE_END

    model, tokenizer = load_attention_model(options.model)
    targets, gold = None, None
    if options.input:
        sources, *others = read_parallel_files(*filter(None, (options.input, options.reference)))
        targets = others[0] if others else None
        if options.gold:
            gold = read_alignments(options.gold)
            if len(gold) != len(sources):
                raise ValueError(f"{options.input} has {len(sources)} lines, {options.gold} has {len(gold)}")
    elif model.config.is_encoder_decoder:
        sources, references, _ = load_test_set(options)  # --source is None, as this is a --survey
        targets = [row[0] for row in references]
    else:
        corpus = options.corpus or read_training_config(options.model).get("corpus", "bible")
        texts = split_of(load_texts(corpus, text_column=options.text_column), options.split)["text"]
        sources = [part.strip() for text in texts for part in SENTENCE_END.split(text) if part.strip()]
    step = max(1, len(sources) // options.sentences)
    sampled = slice(None, step * options.sentences, step)
    targets, gold = targets and targets[sampled], gold and gold[sampled]
    progress = not options.json
    return survey(model, tokenizer, sources[sampled], targets, gold=gold, metric=options.effect, progress=progress)


VERBS = {"attend": (_add_attend_options, run_attend)}
