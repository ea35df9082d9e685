"""The launcher's files, and what `accelerate launch` makes of them."""

from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]


def path_of(name: str) -> Path:
    return ROOT / "scripts" / "accelerate_configs" / f"{name}.yaml"


def launch_environment(name: str) -> dict[str, str]:
    """What `accelerate launch` tells the processes that it starts. It looks for a port: any free one will do."""
    arguments = ["--config_file", str(path_of(name)), "--main_process_port", "0", "script.py"]
    launch, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if not launch.use_deepspeed:
        return prepare_multi_gpu_env(launch)
    launch.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return prepare_deepspeed_cmd_env(launch)[1]
