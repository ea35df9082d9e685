"""transformers' own common tests, run on the three families.

The package is the `tests` package of transformers' source distribution, which `scripts/fetch_transformers_tests.py`
unpacks, plus what that distribution leaves out although its tests import it: helpers for distributed tests
(`distributed_testing_utils`) and the three names below.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

_RELEASE = f"transformers-{version('transformers')}"
_TESTS = Path(__file__).resolve().parents[3] / ".cache" / _RELEASE / "tests"
if not _TESTS.is_dir():
    raise RuntimeError(f"The tests of {_RELEASE} are missing; get them by: python scripts/fetch_transformers_tests.py")
__path__.append(str(_TESTS))


class ExportTesterMixin:
    """Stands in for tests of exporting, which the source distribution lacks."""


class GenerationTesterMixin:
    """Stands in for tests of `generate`, which the source distribution lacks; `test_generation.py` has ours."""


# What ConfigTester gives to a config and expects to read back: fields of `PreTrainedConfig`, none at its default.
_CONFIG_FIELDS = {
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "negative", 1: "positive"},
    "label2id": {"negative": 0, "positive": 1},
    "problem_type": "regression",
}

for _module, _names in {
    "exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    "generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    "utils.test_configuration_utils": {"config_common_kwargs": _CONFIG_FIELDS},
}.items():
    _stand_in = sys.modules[f"{__name__}.{_module}"] = ModuleType(f"{__name__}.{_module}")
    vars(_stand_in).update(_names)
