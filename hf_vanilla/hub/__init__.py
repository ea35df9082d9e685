"""Model cards, and what is sent to the Hub."""

from hf_vanilla._former_names import look_up_in
from hf_vanilla.hub.push import push as push

# Before there were rooms, this was a module.
__getattr__ = look_up_in("hub", ("hub.push", "hub.staging"))
