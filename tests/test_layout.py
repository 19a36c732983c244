"""The shape of the repository: who may import whom, and that every version stands in one place."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MAY_NOT = {
    "memory": {"app", "domains", "data_prep", "benchmarks", "lightning", "torchmetrics"},
    "app": {"domains", "data_prep", "benchmarks"},
    "data_prep": {"app", "domains", "memory", "benchmarks", "torch", "lightning"},
    "domains": {"benchmarks"},
}
NEED_NOTHING = {"app.reading", "app.orphans", "app.output"}  # what every package may import: they import none


@cache
def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", MAY_NOT)
def test_imports_point_down(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = {name for name in imports(path) - NEED_NOTHING if name.split(".")[0] in MAY_NOT[package]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_transformers_is_imported_where_hugging_face_is_served() -> None:
    extra = {"transformers", "peft", "accelerate", "safetensors"}
    for path in (path for package in MAY_NOT for path in (ROOT / package).rglob("*.py")):
        if path.parent != ROOT / "memory" / "hf" and path.name != "export.py":
            wrong = {name for name in imports(path) if name.split(".")[0] in extra}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_what_is_imported_of_our_own_is_there() -> None:
    """Commands that no test runs are looked at too."""
    packages = {*MAY_NOT, "benchmarks"}
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for name in (name for name in imports(path) if name.split(".")[0] in packages):
            place = ROOT / name.replace(".", "/")
            assert place.with_suffix(".py").is_file() or place.is_dir(), f"{path.relative_to(ROOT)} imports {name}"


def test_what_everybody_may_import_imports_nothing() -> None:
    for name in NEED_NOTHING:
        path = ROOT / f"{name.replace('.', '/')}.py"
        assert {name.split(".")[0] for name in imports(path)} <= sys.stdlib_module_names


def test_every_pool_of_processes_lets_its_workers_end_with_it() -> None:
    texts = [path.read_text() for package in (*MAY_NOT, "benchmarks") for path in (ROOT / package).rglob("*.py")]
    pools = [text for text in texts if "ProcessPoolExecutor(" in text]
    assert len(pools) == 2 and all("\n    end_with_parent()\n" in text for text in pools)


def test_no_domain_imports_another() -> None:
    for path in (ROOT / "domains").rglob("*.py"):
        own = path.relative_to(ROOT / "domains").parts[0]
        others = {n for n in imports(path) if n.startswith("domains.") and n.split(".")[1] != own}
        assert not others, f"{path.relative_to(ROOT)} imports {others}"


def test_nothing_below_a_domain_names_it() -> None:
    """A fourth domain has its folder, a YAML, and at most a download and a benchmark; each is found by its place."""
    names = [path.parent.name for path in (ROOT / "domains").glob("*/__init__.py")]
    files = [*(ROOT / "app").rglob("*.py"), *(ROOT / "memory").rglob("*.py"), ROOT / "data_prep" / "__main__.py"]
    for path in files:
        words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        named = [word for word in words for name in names if word == name or f"domains.{name}" in str(word)]
        assert not named, f"{path.relative_to(ROOT)} names {named}"


def methods(path: Path, *bases: str) -> set[str]:
    """Methods of the classes in a file, of those with one of the `bases`, or of the one called so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and {node.name, *map(ast.unparse, node.bases)} & set(bases):
            names |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


def test_the_contract_asks_for_nothing_that_one_domain_alone_has() -> None:
    contract = methods(ROOT / "app" / "head.py", "Head")
    having = {name: set() for name in contract}
    for path in (ROOT / "domains").glob("*/*.py"):
        for name in methods(path, "Head", "CompletedHead", "BoundedHead") & contract:
            having[name].add(path.parent.name)
    assert len(contract) > 9 and not {name: domains for name, domains in having.items() if len(domains) < 2}


def test_conda_takes_its_versions_from_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-e .[dev]"]}
    assert [entry.split("=")[0] for entry in environment["dependencies"][:-1]] == ["python", "pip"]


def test_a_file_at_the_top_of_benchmarks_is_a_command_and_a_folder_holds_what_one_needs() -> None:
    top = ROOT / "benchmarks"
    for path in {*top.glob("*.py")} - {top / "__init__.py", top / "__main__.py"}:
        assert path.read_text().rstrip().endswith(("    main()", "    sys.exit(main())")), f"{path.name} is no command"
    folders = {path.parent.name for path in top.glob("*/__init__.py")}
    assert {folder for folder in folders if not (top / folder / "__main__.py").is_file()} == {"shared"}
    for path in top.rglob("*.py"):
        own = {"shared", path.relative_to(top).parts[0]}
        if path != top / "pages.py":  # which makes everybody's
            others = {n for n in imports(path) if n.startswith("benchmarks.") and n.split(".")[1] in folders - own}
            assert not others, f"{path.relative_to(ROOT)} imports {others}"
