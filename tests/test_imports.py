"""Imports between the folders of the package go one way, form no cycle, and keep Ray in a few of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import cplmix_ray

ROOT = Path(cplmix_ray.__file__).parent

# From low to high. A folder may import itself and folders on lower levels, not its neighbours on the same level.
LEVELS = [
    {"utils", "version"},
    {"metrics", "clustering", "collectives", "distributions"},
    {"config"},
    {"nn"},
    {"data"},
    {"couplings", "augmentations", "simulation"},
    {"models"},
    {"checkpoints"},
    {"evaluation"},
    {"analysis"},
    {"training"},
    {"distributed"},
    {"runs"},
    {"pruning", "tuning"},
    {"benchmarks"},
    {"api", "cli"},
    {"train", "tune", "evaluate", "prune", "predict", "de", "compare", "splits", "augment", "simulate", "bench"},
]
LEVEL_OF = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}

IMPORT_RAY = {"distributed", "tuning"}


def name_of(path: Path) -> str:
    """Dotted name of a module; a package's is that of its folder."""
    return ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


# The package's own __init__ only passes on what `from cplmix_ray import ...` takes from higher levels.
MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem != "__init__"}


def folder_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, at any depth of its code, with line numbers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else str(node.module), node.lineno


IMPORTS = {name: list(imports_of(path)) for name, path in MODULES.items()}


def own_imports(module: str) -> Iterator[tuple[str, int]]:
    """Those of its imports that are modules of this package; one that does not exist is an error."""
    for target, line in IMPORTS[module]:
        if target.split(".")[0] == ROOT.name:
            assert target in MODULES, f"{MODULES[module]}:{line}: there is no module {target}"
            yield target, line


def test_every_folder_has_a_level():
    assert {folder_of(module) for module in MODULES} == set(LEVEL_OF)


def test_no_import_climbs():
    climbing = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {target}"
        for module in MODULES
        for target, line in own_imports(module)
        if folder_of(target) != folder_of(module) and LEVEL_OF[folder_of(target)] >= LEVEL_OF[folder_of(module)]
    ]
    assert not climbing, "\n".join(climbing)


def test_few_folders_import_ray():
    found = {
        folder_of(module)
        for module, imported in IMPORTS.items()
        for target, _ in imported
        if target.split(".")[0] == "ray"
    }
    assert found == IMPORT_RAY


def test_modules_form_no_cycle():
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for target, _ in own_imports(module):
            visit(target)
        path.pop()
        done.add(module)

    for module in MODULES:
        visit(module)
