"""The house has one way down: imports go from what a person types to what knows nobody, and never back."""

import ast
from pathlib import Path

import pytest

import cplmix_ray

ROOT = Path(cplmix_ray.__file__).parent

# From the ground floor up. A room may import itself and the floors below, not its neighbours on the same floor.
FLOORS = [
    {"errors", "version"},
    {"durable", "threads"},
    {"config", "clusters"},
    {"content", "data", "minibatch", "simplex", "likelihoods", "scores"},
    {"arm", "augmenter", "coupling", "objective", "simulator"},
    {"copies"},
    {"trainer"},
    {"engine"},
    {"run"},
    {"search"},
    {"benchmark"},
    {"api", "cli"},
    {"train", "tune", "evaluate", "predict", "augment", "simulate", "bench"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[str, int]]:
    """Rooms of the package that a file imports, at any depth of its code, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import, which this test cannot follow"
            names = [node.module or ""]
            if node.module == "cplmix_ray":
                names = [f"cplmix_ray.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name.split(".")[1], node.lineno) for name in names if name.startswith("cplmix_ray.")]
    return found


SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_room_has_a_floor():
    assert {room_of(path) for path in SOURCES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    room = room_of(path)
    for target, line in imports_of(path):
        if target != room:
            assert FLOOR_OF[target] < FLOOR_OF[room], f"{path}:{line}: {room} may not import {target}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_engine_knows_ray(path):
    if room_of(path) == "engine":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        assert not any(m == "ray" or m.startswith("ray.") for m in modules), f"{path}:{node.lineno}"


def test_modules_within_a_room_form_no_cycle():
    graph = {}
    for path in SOURCES:
        name = ".".join(("cplmix_ray", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cplmix_ray."):
                targets.add(node.module)
        graph[name] = targets
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, f"cycle: {' -> '.join([*under_way, name])}"
        if name in done or name not in graph:
            return
        under_way.append(name)
        for target in graph[name] - {name}:
            visit(target)
        under_way.pop()
        done.add(name)

    for name in graph:
        visit(name)
