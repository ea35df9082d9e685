"""Where transformers' tests come from."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "fetch_transformers_tests.py"
fetch_tests = runpy.run_path(str(SCRIPT))["fetch_tests"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_tests_that_are_present_need_no_network(tmp_path: Path) -> None:
    (tmp_path / "transformers-0.0.0").mkdir()
    assert fetch_tests("0.0.0", cache=tmp_path) == tmp_path / "transformers-0.0.0" / "tests"


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"could not download the source distribution of transformers 0\.0\.0"):
        fetch_tests("0.0.0", cache=tmp_path)
    assert not list(tmp_path.iterdir())
