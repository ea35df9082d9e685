"""The launcher's files: Accelerate reads every key of them, and what they name exists."""

import os

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from families import small_model
from launcher_files import ROOT, launch_environment, path_of

from hf_vanilla import VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM, VanillaForConditionalGeneration

# File: what Accelerate calls it, processes, machines.
LAYOUTS = {
    "ddp": (DistributedType.MULTI_GPU, 8, 1),
    "multi_node": (DistributedType.MULTI_GPU, 16, 2),
    "fsdp2": (DistributedType.FSDP, 8, 1),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 8, 1),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 8, 1),
}


def test_every_file_is_tested():
    assert {path.stem for path in path_of("ddp").parent.glob("*")} == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_accelerate_knows_every_key(name):
    config = load_config_from_file(str(path_of(name)))  # Raises for unknown keys, but does not look into sections.
    assert (config.distributed_type, config.num_processes, config.num_machines) == LAYOUTS[name]
    options = vars(launch_command_parser().parse_args(["script.py"])).keys()
    assert config.fsdp_config.keys() | config.deepspeed_config.keys() <= options
    assert config.mixed_precision is None  # The run's own YAML file decides; see `Accelerator(mixed_precision=...)`.


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_first_lines_say_how_to_launch_it(name):
    words = path_of(name).read_text(encoding="utf-8").partition("compute_environment")[0].split()
    assert str(path_of(name).relative_to(ROOT)) in words and "scripts/train_translation.py" in words


def test_fsdp_shards_the_layers_of_the_model(monkeypatch):
    environment = launch_environment("fsdp2")
    for variable in environment.keys() - os.environ.keys():
        monkeypatch.setenv(variable, environment[variable])
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward and not plugin.cpu_ram_efficient_loading
    for model_class in (VanillaForConditionalGeneration, VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM):
        plugin.set_auto_wrap_policy(small_model(model_class))  # Raises where a class is not in the model.


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_its_stage_and_clips_only_if_told_to(stage):
    environment = launch_environment(f"deepspeed_zero{stage}")
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert float(environment["ACCELERATE_GRADIENT_CLIPPING"]) == 0


def test_multi_node_starts_eight_processes_on_each_machine():
    arguments = ["--config_file", str(path_of("multi_node")), "--main_process_port", "0", "--machine_rank", "1"]
    launch, *_ = _validate_launch_command(launch_command_parser().parse_args([*arguments, "script.py"]))
    prepare_multi_gpu_env(launch)
    assert (launch.nnodes, launch.nproc_per_node, launch.node_rank) == ("2", "8", 1)
