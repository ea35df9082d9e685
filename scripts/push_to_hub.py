"""Send a trained model to the Hub, with card, code and records, after checking that it loads without `hf_vanilla`.

    python scripts/push_to_hub.py runs/verses_demo user/verses --dry-run
    python scripts/push_to_hub.py runs/verses_demo user/verses --tag v1.0 --space

`hf-vanilla push --help` explains the options. The token is that of `hf auth login`, or HF_TOKEN.
"""

import sys

from hf_vanilla import cli

if __name__ == "__main__":
    cli.main(["push", *(sys.argv[1:] or ["--help"])])
