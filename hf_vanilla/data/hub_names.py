"""Which names are those of repositories on the Hub."""

import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def hub_id(name: object) -> str | None:
    """Return a name if the Hub takes it for that of a repository, and no file or folder has it here; else None.

    Ask when the name is used: later, or elsewhere, the file may be gone.
    """
    if not isinstance(name, str) or Path(name).expanduser().exists() or re.match(r"[/.~]|\w+:|.*\\", name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name
