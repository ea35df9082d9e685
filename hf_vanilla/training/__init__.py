"""Training from scratch: tasks, the loop, and what a run writes."""

from hf_vanilla._former_names import look_up_in

# Before there were rooms, this was a module.
__getattr__ = look_up_in(
    "training", ("training.loop", "training.distributed", "training.evaluation", "training.state", "training.records")
)
