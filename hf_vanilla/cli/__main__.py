"""`python -m hf_vanilla.cli VERB ...`, as `hf-vanilla VERB ...`."""

from hf_vanilla.cli import main

main()
