"""Draw which room of the package imports which, as the Mermaid picture in CONTRIBUTING.md; `--write` renews it there.

python scripts/map_rooms.py --write
"""

import argparse
import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hf_vanilla"
START, END = "<!-- rooms: written by scripts/map_rooms.py -->", "<!-- rooms: end -->"


def module_of(path: Path, root: Path = ROOT) -> str:
    """The dotted name by which a file is imported, such as `hf_vanilla.data.files`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The folder that a module of the package lies in, or the module itself where it lies beside the folders."""
    return (module.split(".") + [""])[1] or PACKAGE


def imports_of(path: Path, modules: set[str], root: Path = ROOT) -> Iterator[tuple[str, bool]]:
    """Each module of the project that a file imports, and whether it does so when it is loaded.

    An import inside a function, or under `TYPE_CHECKING`, is no import at load time.
    """
    here = module_of(path, root).split(".")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_load = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = here[: len(here) - node.level + (path.name == "__init__.py")] if node.level else []
            start = ".".join([*parents, *([node.module] if node.module else [])])
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
            if any(name in modules for name in names[1:]):
                names = names[1:]
        else:
            continue
        for name in names:
            if name in modules:
                yield name, node in at_load


def graph(root: Path = ROOT, at_load_alone: bool = False) -> dict[str, set[str]]:
    """For each module of the package, the modules of the package that it imports."""
    paths = {
        module_of(path, root): path for path in sorted((root / PACKAGE).rglob("*.py")) if "templates" not in path.parts
    }
    return {
        module: {
            name
            for name, at_load in imports_of(path, set(paths), root)
            if name != module and (at_load or not at_load_alone)
        }
        for module, path in paths.items()
    }


def rooms(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each room, the other rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for module, names in modules.items():
        found.setdefault(room_of(module), set()).update(room_of(name) for name in names)
    return {room: names - {room} for room, names in found.items()}


def circle(of: dict[str, set[str]]) -> list[str]:
    """The modules or rooms of a circle of imports; none for a graph without any."""
    try:
        TopologicalSorter(of).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def mermaid(of: dict[str, set[str]]) -> str:
    """The rooms as a Mermaid flowchart. An arrow that follows from two others is left out."""
    reach: dict[str, set[str]] = {}
    for room in TopologicalSorter(of).static_order():
        reach[room] = set().union(of[room], *(reach[name] for name in of[room]))
    lines = [
        f"    {room} --> {name}"
        for room in sorted(of)
        for name in sorted(of[room])
        if not any(name in reach[other] for other in of[room] - {name})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def main() -> None:
    """Print the picture, or write it into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the picture in CONTRIBUTING.md")
    arguments = parser.parse_args()
    picture = mermaid({room: names - {PACKAGE} for room, names in rooms(graph()).items() if room != PACKAGE})
    if not arguments.write:
        print(picture)
        return
    path = ROOT / "CONTRIBUTING.md"
    before, rest = path.read_text(encoding="utf-8").split(START)
    path.write_text(f"{before}{START}\n{picture}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
