"""`hf-vanilla convert` and `hf-vanilla export`: checkpoints of other libraries and engines."""

import argparse
from pathlib import Path

from hf_vanilla.cli.options import EXPORT_FORMATS, AddArgument, require, require_folder_to_write, require_model
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
    add("model", help="folder or Hub id of a sequence-to-sequence model")
    add("folder", type=Path, help="folder to write to; it must not exist, or be empty")
    add("--format", required=True, help=" or ".join(EXPORT_FORMATS))


def run_export(options: argparse.Namespace) -> None:
    """Write a translation model in the format of another engine.

    example: hf-vanilla export runs/verses_demo exported --format ctranslate2
    """
    require(options, format=EXPORT_FORMATS)
    require_model(options.model)
    require_folder_to_write(options.folder)
    from hf_vanilla.conversion.export import export

    export(options.model, options.format, options.folder)
    print(f"written to {options.folder}")


VERBS = {"convert": (_add_convert_options, run_convert), "export": (_add_export_options, run_export)}
