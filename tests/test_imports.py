"""The import order of the two packages, walked by ast, and what must stay out of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vadcli", "pipelines")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("pipelines.records", "pipelines.spans", "pipelines.recipe", "pipelines.errors", "pipelines.progress"),
    ("pipelines.artifacts", "pipelines.catalog"),
    ("pipelines.methods", "pipelines.encoders", "pipelines.metrics", "pipelines.video", "pipelines.regions"),
    ("pipelines.data",),
    ("pipelines.store",),
    ("pipelines.extraction", "pipelines.training", "pipelines.scoring", "pipelines.report"),
    ("pipelines.live",),  # live detection: above scoring and extraction, which it puts together, below the stages
    (
        "pipelines.extract",
        "pipelines.train",
        "pipelines.evaluate",
        "pipelines.predict",
        "pipelines.plot",
        "pipelines.watch",
        "pipelines.calibrate",
        "pipelines.doctor",
        "pipelines.synthetic",
    ),
    ("pipelines.cluster", "pipelines.chain"),
    ("vadcli.options", "vadcli.console", "vadcli.cluster"),
    ("vadcli.commands",),
    ("vadcli.app", "vadcli.__main__"),
)
STRANGERS = (LAYERS[2], LAYERS[7])  # units of one layer that never import each other
HEAVY = {"torch", "zarr", "pandas", "sklearn", "scipy", "transformers", "av", "decord", "matplotlib", "h5py"}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def unit(module: str) -> tuple[int, str] | None:
    """(layer, its unit) of a module; None for the packages' own __init__."""
    for number, layer in enumerate(LAYERS):
        for name in layer:
            if module == name or module.startswith(name + "."):
                return number, name
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk(node: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """Every node below `node`; with `at_import` only what runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if at_import and (is_type_checking(child) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        yield child
        yield from walk(child, at_import=at_import)


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, function bodies included; `from a import b` gives `a.b` where that is a module."""
    for node in walk(ast.parse(path.read_text(encoding="utf-8")), at_import=at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def broken(importer: str, imported: str) -> str:
    """Why `importer` may not import `imported`, or an empty string."""
    here, there = unit(importer), unit(imported)
    if here is None or there is None or here[1] == there[1]:
        return ""
    if there[0] > here[0]:
        return f"{importer} imports {imported}, which stands above it"
    if here[0] == there[0] and LAYERS[here[0]] in STRANGERS:
        return f"{importer} imports {imported}: these two never import each other"
    return ""


def test_imports_run_one_way_only():
    wrong = [broken(name, other) for name, path in MODULES.items() for other in imports(path)]
    assert not [line for line in wrong if line]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("pipelines.data.manifest", "pipelines.store.features"),
        ("pipelines.methods.mil_rank", "pipelines.encoders.motion"),
        ("pipelines.train", "pipelines.extract"),
        ("pipelines.errors", "pipelines.artifacts"),
        ("pipelines.chain", "vadcli.console"),
    ],
)
def test_the_rule_refuses_imports_against_the_order(importer, imported):
    assert broken(importer, imported)


def test_every_module_has_a_place_in_the_order():
    packages = set(PACKAGES)
    assert not [name for name in MODULES if name not in packages and unit(name) is None]


def test_no_import_cycles():
    """Of imports at module level, and, between units of one layer, of any import."""
    graph = {
        name: {other for other in imports(path, at_import=True) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    for name, path in MODULES.items():
        graph[name] |= {other for other in imports(path) if other in MODULES and unit(other) != unit(name)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_click_is_never_imported():
    for name, path in MODULES.items():
        assert not [i for i in imports(path) if i.split(".")[0] == "click" or "_click" in i], name


def test_typer_and_rich_stay_in_vadcli():
    for name, path in MODULES.items():
        if name.startswith("pipelines"):
            assert not {i.split(".")[0] for i in imports(path)} & {"typer", "rich"}, name


def test_print_is_called_nowhere():
    for name, path in MODULES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], name


def test_every_part_states_its_name():
    from pipelines import catalog

    for kind in ("methods", "encoders", "metrics"):
        for path in (ROOT / "pipelines" / kind).glob("[!_]*.py"):
            assert isinstance(catalog.constants(path).get("NAME"), str), f"{path.name} states no NAME"


def test_importing_the_command_line_imports_nothing_heavy():
    names = [name for name in MODULES if name.startswith("vadcli") and not name.endswith("__main__")]
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & HEAVY


def test_the_app_itself_imports_no_numpy_and_of_pipelines_only_the_errors():
    code = "import sys, vadcli.app\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "pydantic", "yaml", "rich", *HEAVY}
    assert {name for name in loaded if name.startswith("pipelines")} == {"pipelines", "pipelines.errors"}


def test_no_module_is_called_utils():
    assert not [path for path in MODULES.values() if path.stem in {"utils", "helpers", "misc", "common"}]
