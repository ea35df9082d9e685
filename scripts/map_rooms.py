"""Draw which room of the package imports which, as the Mermaid picture in CONTRIBUTING.md; `--write` renews it there.

python scripts/map_rooms.py --write
"""

import argparse
import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from hf_vanilla.cli.streams import run_program

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hf_vanilla"
START, END = "<!-- rooms: written by scripts/map_rooms.py -->", "<!-- rooms: end -->"


def module_of(path: Path, root: Path = ROOT) -> str:
    """Return the dotted name by which a file is imported, such as `hf_vanilla.data.files`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the folder that a module of the package lies in, or the module itself if it lies beside the folders."""
    return (module.split(".") + [""])[1] or PACKAGE


def imports_of(path: Path, modules: set[str], root: Path = ROOT) -> Iterator[tuple[str, bool]]:
    """Yield each of `modules` that a file imports, and if at load time (not in a function, or for types alone)."""
    here, tree = module_of(path, root).split("."), ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            parents = here[: len(here) - node.level + (path.name == "__init__.py")] if node.level else []
            start = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{start}.{name}" for name in names]
            names = names if modules.intersection(names) else [start]
        yield from ((name, node in tree.body) for name in names if name in modules)


def graph(root: Path = ROOT, at_load_alone: bool = False) -> dict[str, set[str]]:
    """Return for each module of the package the modules of the package that it imports."""
    files = (path for path in sorted((root / PACKAGE).rglob("*.py")) if "templates" not in path.parts)
    paths = {module_of(path, root): path for path in files}
    imports = {module: imports_of(path, set(paths), root) for module, path in paths.items()}
    return {
        module: {name for name, at_load in found if at_load or not at_load_alone} - {module}
        for module, found in imports.items()
    }


def rooms(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return for each room the other rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for module, names in modules.items():
        found.setdefault(room_of(module), set()).update(map(room_of, names))
    return {room: names - {room} for room, names in found.items()}


def circle(of: dict[str, set[str]]) -> list[str]:
    """Return the modules or rooms of a circle of imports; none for a graph without any."""
    try:
        TopologicalSorter(of).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def mermaid(of: dict[str, set[str]]) -> str:
    """Return the rooms as a Mermaid flowchart, without arrows that follow from two others."""
    reach: dict[str, set[str]] = {}
    for room in TopologicalSorter(of).static_order():
        reach[room] = of[room].union(*(reach[name] for name in of[room]))
    lines = [
        f"    {room} --> {name}"
        for room in sorted(of)
        for name in sorted(of[room])
        if not any(name in reach[other] for other in of[room] - {name})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def picture() -> str:
    """Return the picture of the rooms, without the modules beside them that only load and rename."""
    hidden = {room for room in rooms(graph()) if room == PACKAGE or room.startswith("_")}
    return mermaid({room: names - hidden for room, names in rooms(graph()).items() if room not in hidden})


def main() -> None:
    """Print the picture, or write it into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the picture in CONTRIBUTING.md")
    arguments = parser.parse_args()
    if not arguments.write:
        print(picture())
        return
    path = ROOT / "CONTRIBUTING.md"
    before, rest = path.read_text(encoding="utf-8").split(START)
    path.write_text(f"{before}{START}\n{picture()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
