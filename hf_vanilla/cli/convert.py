"""`hf-vanilla convert` and `hf-vanilla export`: checkpoints of other libraries and engines."""

import argparse
from pathlib import Path

from hf_vanilla.cli.options import (
    EXPORT_FORMATS,
    MAX_MEGABYTES,
    PAGE_LANGUAGES,
    PAGE_PRECISIONS,
    AddArgument,
    require,
    require_files,
    require_folder_to_write,
    require_model,
    require_writable,
)
from hf_vanilla.training.yaml_files import parse_yaml


def _add_convert_options(add: AddArgument) -> None:
    add("source", help="folder or Hub id of a model in safetensors, or a safetensors file of a torch.nn.Transformer")
    add("folder", type=Path, help="folder to write to")
    add("--to", help="bert, roberta, distilbert, gpt2, marian or bart, for one of ours (default: the first that fits)")
    set_help = "field of the configuration that the source lacks, as num_attention_heads=8 for a torch.nn.Transformer"
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=f"{set_help}; may be repeated")
    add("--overwrite", action="store_true", help="replace a model that is in the folder")


def run_convert(options: argparse.Namespace) -> None:
    """Convert a checkpoint of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART or torch.nn.Transformer into one of ours,
    or one of ours into theirs.

    example: hf-vanilla convert google-bert/bert-base-uncased runs/bert
    """
    fields = {}
    for setting in options.set:
        name, equals, value = setting.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--set {setting}: expected FIELD=VALUE, as in num_attention_heads=8")
        fields[name] = parse_yaml(value, f"--set {name}")
    require_folder_to_write(options.folder)
    from hf_vanilla.conversion.convert import convert

    done = convert(options.source, options.folder, options.to, options.overwrite, **fields)
    print(f"written to {options.folder}: {done}")


def _add_export_options(add: AddArgument) -> None:
    add("model", help="folder or Hub id of a sequence-to-sequence model; for html, also of a language model")
    add("output", type=Path, help="folder to write to, which must not exist, or be empty; for html, a file")
    add("--format", required=True, help=" or ".join(EXPORT_FORMATS))
    page = "of the html page"
    add("--precision", help=f"weights {page}, {' or '.join(PAGE_PRECISIONS)} (default: float16)")
    add("--title", help=f"title {page} (default: the model's name)")
    add("--language", help=f"labels {page}, {' or '.join(PAGE_LANGUAGES)} (default: the reader's)")
    add("--examples", type=Path, metavar="FILE", help=f"examples {page}, one a line (default: samples of the run)")
    add("--max_megabytes", type=float, help=f"do not write a larger html page (default: {MAX_MEGABYTES})")


def run_export(options: argparse.Namespace) -> None:
    """Write a model in the format of another engine, or as one HTML file that runs it and shows its attention.

    example: hf-vanilla export runs/verses_demo page.html --format html
    """
    require(options, format=EXPORT_FORMATS, precision=PAGE_PRECISIONS, language=PAGE_LANGUAGES, max_megabytes=0)
    require_model(options.model)
    names = ("precision", "title", "language", "examples", "max_megabytes")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.format == "html":
        require_writable(options.output)
        require_files(options.examples)
        from hf_vanilla.conversion.html_page import export_html

        export_html(options.model, options.output, **given)
    elif given:
        raise ValueError(f"--{next(iter(given))} is for --format html, not {options.format}")
    else:
        require_folder_to_write(options.output)
        from hf_vanilla.conversion.export import export

        export(options.model, options.format, options.output)
    print(f"written to {options.output}")


VERBS = {"convert": (_add_convert_options, run_convert), "export": (_add_export_options, run_export)}
