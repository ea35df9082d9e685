"""`hf-vanilla train`."""

import argparse
import os
import shlex

from hf_vanilla.cli.options import AddArgument, require_files, require_folder_to_write, require_model


class ExplainFields(argparse.Action):
    """Prints the help of `train`, and after it that of each field of a configuration."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from hf_vanilla.training.config import TrainingConfig

        fields = "".join(TrainingConfig.parser(parser.prog).format_help().partition("\n  --task")[1:])
        print(f"{parser.format_help()}\nfields of CONFIG.yaml, and options after it:{fields}")
        parser.exit()


def _add_train_options(add: AddArgument) -> None:
    # The options after the file are left for the configuration to parse.
    add("config", metavar="CONFIG.yaml", help="YAML file of the fields below")
    add("-h", "--help", nargs=0, action=ExplainFields, help="show this help message and exit")


def run_train(options: argparse.Namespace) -> None:
    """Train a model as a YAML file says, or continue a run that was interrupted.

    example: hf-vanilla train scripts/configs/tiny.yaml --output_dir runs/mine --seed 2
    """
    from hf_vanilla.training.config import TrainingConfig

    config = TrainingConfig.load(options.config, options.overrides)
    require_folder_to_write(config.output_dir)
    require_files(*((config.corpus, config.target_path) if config.target_path else ()))
    require_model(config.initial_model)
    from hf_vanilla.environment import keep_freed_memory
    from hf_vanilla.training.loop import train

    keep_freed_memory()
    folder = train(config, shlex.join(["hf-vanilla", "train", options.config, *options.overrides]))
    if not int(os.environ.get("RANK", 0)):
        print(f"saved in {folder}")


VERBS = {"train": (_add_train_options, run_train)}
