"""DeepSpeed's own parser reads what the launcher's files ask it for. No GPU: nothing is trained."""

import os

import pytest
from accelerate.utils import DeepSpeedPlugin
from launcher_files import launch_environment

parser = pytest.importorskip("deepspeed.runtime.config", reason="DeepSpeed is not installed")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_it_reads_stage_precision_and_clipping_as_they_were_meant(monkeypatch, stage, precision):
    environment = launch_environment(f"deepspeed_zero{stage}")
    for variable in environment.keys() - os.environ.keys():
        monkeypatch.setenv(variable, environment[variable])
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(precision)
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.5}  # as a run does
    plugin.deepspeed_config_process(must_match=True, train_batch_size=1, gradient_accumulation_steps=1)
    read = parser.DeepSpeedConfig(plugin.deepspeed_config)
    assert read.zero_optimization_stage == stage and read.gradient_clipping == 0.5
    assert (read.bfloat16_config.enabled, read.float16_config.enabled) == (precision == "bf16", precision == "fp16")
    for offloaded in (read.zero_config.offload_optimizer, read.zero_config.offload_param):
        assert offloaded is None or offloaded.device == "none"
    assert read.zero_config.gather_16bit_weights_on_model_save == (stage == 3)
