"""Fine-tuning of pretrained models with Trainer."""

from hf_vanilla._former_names import look_up_in

# Before there were rooms, this was a module.
__getattr__ = look_up_in("finetuning", ("finetuning.run", "finetuning.arguments", "finetuning.labels"))
