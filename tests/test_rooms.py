"""Which room may import which, as CONTRIBUTING.md draws them: each those below it alone, and none the scripts."""

import ast
import sys

from map_rooms import ROOT, circle, graph, picture, rooms

BELOW = {
    "data": set(),
    "translation": {"models", "data"},
    "attention": {"translation", "data", "models"},
    "training": {"translation", "data", "models"},
    "conversion": {"models", "training"},
    "hub": {"attention", "conversion", "training", "translation", "data", "models", "hf_vanilla"},
    "finetuning": {"hub", "training", "translation", "data", "models", "hf_vanilla"},
}
LIBRARIES = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
SCRIPTS = {path.stem for path in (ROOT / "scripts").iterdir()} | {"scripts"}


def imported_by(path):
    """For each import in a file, the level (0 if it is absolute) and the first part of the module's name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((getattr(node, "level", 0), name.split(".")[0]) for name in names)


def test_rooms_import_those_below_them_and_in_no_circle():
    modules, allowed = graph(), {"environment", "_former_names"}
    for room, below in BELOW.items():
        assert rooms(modules)[room] <= below | allowed, room
    in_conversion = [names for module, names in modules.items() if module.startswith("hf_vanilla.conversion.")]
    training = {name for name in set().union(*in_conversion) if name.startswith("hf_vanilla.training")}
    assert training <= {"hf_vanilla.training.checkpointing"}
    assert circle(modules) == [] and circle(rooms(modules)) == []


def test_what_travels_with_a_checkpoint_imports_siblings_relatively_and_three_libraries():
    for path in (ROOT / "hf_vanilla" / "models").glob("*.py"):
        for level, name in imported_by(path):
            assert level == 1 or (level == 0 and name in LIBRARIES), (path, name)


def test_neither_the_package_nor_a_script_imports_a_script():
    for path in [*(ROOT / "hf_vanilla").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        shared = {"pages", "paper", "peers"} if path.parent.name == "scripts" else set()
        assert not {name for level, name in imported_by(path) if not level} & (SCRIPTS - shared), path


def test_the_picture_in_contributing_is_that_of_today():
    assert picture() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_each_file_of_tests_has_a_name_of_its_own():
    """Two of one name are one module to pytest, which then does not run the second."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
