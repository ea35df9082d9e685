"""`hf-vanilla attend`: what the heads of a model look at."""

import argparse
from pathlib import Path

from hf_vanilla.cli.evaluate import load_split, load_test_set, read_parallel_files
from hf_vanilla.cli.options import (
    EFFECTS,
    FIGURE_FORMATS,
    SPLITS,
    AddArgument,
    add_corpus_options,
    require,
    require_files,
    require_model,
    require_writable,
)


def _add_attend_options(add: AddArgument) -> None:
    add("model", help="folder or Hub id of any model of transformers that gives attentions")
    add("--source", help="text to look at")
    add("--target", help="its translation, its continuation, or its second half (default: what the model writes)")
    add("--max_new_tokens", type=int, help="most tokens the model writes as the target; a decoder by default none")
    add("--words", action="store_true", help="join tokens into words; the page has a switch for it, too")
    add("--html", type=Path, metavar="FILE", help="write a page to this file")
    add("--figure", type=Path, metavar="FILE", help="draw a figure into this file: PNG, SVG or PDF by its ending")
    add("--kind", help="encoder, decoder or cross (default: the last of these that the model has)")
    plot_help = "grid (all heads), heads (of a layer, with words), lines (between words) or alignment (one matrix)"
    add("--plot", help=f"{plot_help} (default: alignment of cross-attention, else heads)")
    add("--layer", type=int, help="layer to draw, from 1 (default: the last; for an alignment the last but one)")
    add("--head", type=int, help="head to draw, from 1 (default: all; for an alignment their mean)")
    add("--word", help="draw only the lines of this word")
    add("--dark", dest="theme", action="store_const", const="dark", default="light", help="draw light on dark")
    add("--survey", action="store_true", help="print a table of what each head does over a corpus, or draw a --figure")
    add_corpus_options(add)
    add("--text_column", help="column for a model of one stack, such as BERT or GPT (default: the run's, or text)")
    add("--input", type=Path, help="text file instead of a corpus, one text a line")
    add("--reference", type=Path, help="translation of --input, line by line")
    add("--gold", type=Path, help="alignments of --input, line by line: 0-0 1-2 2?1 (source-target, from 0)")
    add("--sentences", type=int, default=100, help="sentences to sample evenly from the corpus (default: 100)")
    add("--effect", default="perplexity", help="score without each head: perplexity, bleu, none (default: perplexity)")
    add("--json", action="store_true", help="print the survey as JSON")


def run_attend(options: argparse.Namespace) -> None:
    """Show what the heads of a model look at: as a page, as a figure, or as a table over a corpus.

    example: hf-vanilla attend runs/verses_demo --source 'In the beginning God made heaven.' --html attention.html
    """
    if options.survey == (options.source is not None):
        raise ValueError("give either a text (--source) or --survey")
    if not options.survey and not options.html and not options.figure:
        raise ValueError("say what to write: --html FILE, --figure FILE, or both")
    if options.survey and options.html:
        raise ValueError("--survey prints a table and draws a --figure; it makes no --html")
    if options.figure and options.figure.suffix.lower() not in FIGURE_FORMATS:
        raise ValueError(f"--figure {options.figure}: expected a file that ends in one of {', '.join(FIGURE_FORMATS)}")
    require_writable(options.html, options.figure)
    require(options, plot=("grid", "heads", "lines", "alignment"), effect=EFFECTS, max_new_tokens=1, sentences=1)
    if (options.reference or options.gold) and not options.input or options.gold and not options.reference:
        raise ValueError("--gold needs --input and --reference, --reference needs --input")
    require(options, split=SPLITS)
    require_model(options.model)
    require_files(options.input, options.reference, options.gold, options.target_path)
    from hf_vanilla.environment import keep_freed_memory

    keep_freed_memory()
    (survey_corpus if options.survey else show_text)(options)


def show_text(options: argparse.Namespace) -> None:
    """Write the page and the figure of a text; in `options`, layers and heads are counted from 1."""
    from hf_vanilla.attention import figures, reader

    choices = {"words": options.words, "max_new_tokens": options.max_new_tokens}
    model, tokenizer = reader.load_attention_model(options.model)
    maps = reader.attention_maps(model, tokenizer, options.source, options.target, **choices)
    if options.figure:
        attention = maps[options.kind or list(maps.kinds)[-1]]
        for name, count in zip(("layer", "head"), attention.weights.shape[:2], strict=True):
            number = getattr(options, name)
            if number is not None and not 1 <= number <= count:
                raise ValueError(f"--{name} is {number}; expected 1 to {count}")
        layer, head = (number and number - 1 for number in (options.layer, options.head))
        last, heads = -1 if layer is None else layer, None if head is None else [head]
        parts = {"grid": [], "heads": [last], "lines": [last, heads, options.word], "alignment": [layer, head]}
        plot = options.plot or ("alignment" if attention.kind == "cross" else "heads")
        figure = getattr(figures, f"plot_{plot}")(attention, *parts[plot], theme=options.theme)
        figures.save_figure(figure, options.figure)
    if options.html:
        maps.save_html(options.html)
    print(f"written to {' and '.join(str(path) for path in (options.html, options.figure) if path)}")


def survey_corpus(options: argparse.Namespace) -> None:
    """Print, and draw if a figure is asked for, what the heads do over the texts that `options` name."""
    from hf_vanilla.attention import figures, reader, survey
    from hf_vanilla.data.corpora import load_texts
    from hf_vanilla.translation.cutting import split_sentences

    model, tokenizer = reader.load_attention_model(options.model)
    targets, gold = None, None
    if options.input:
        sources, *others = read_parallel_files(*filter(None, (options.input, options.reference)))
        targets = others[0] if others else None
        gold = survey.read_alignments(options.gold) if options.gold else None
        if gold is not None and len(gold) != len(sources):
            raise ValueError(f"{options.input} has {len(sources)} lines, {options.gold} has {len(gold)}")
    elif model.config.is_encoder_decoder:
        sources, references, _ = load_test_set(options)  # --source is None, as this is a --survey
        targets = [row[0] for row in references]
    else:
        texts = load_split(options, load_texts, "bible", {"text_column": "text", "columns": None})[0]["text"]
        sources = [part.strip() for text in texts for part in split_sentences(text) if part.strip()]
    step = max(1, len(sources) // options.sentences)
    sampled = slice(None, step * options.sentences, step)
    targets, gold = targets and targets[sampled], gold and gold[sampled]
    choices = {"gold": gold, "metric": options.effect, "progress": not options.json}
    found = survey.survey(model, tokenizer, sources[sampled], targets, **choices)
    if options.figure:
        figures.save_figure(found.plot(options.theme), options.figure)
    print(found.to_json() if options.json else found.to_markdown())


VERBS = {"attend": (_add_attend_options, run_attend)}
