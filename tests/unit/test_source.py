"""Digests of code: what is reached changes them, what is not does not."""

from pathlib import Path

import pytest

from pipeline import source
from pipeline.errors import UsageError


def project(folder: Path) -> Path:
    (folder / "pkg").mkdir()
    (folder / "net.py").write_text("import torch\nfrom pkg import layers\nfrom pkg.more import x\n")
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "layers.py").write_text("from . import helper\n")
    (folder / "pkg" / "helper.py").write_text("def late():\n    import deep\n")
    (folder / "pkg" / "more.py").write_text("x = 1\n")
    (folder / "deep.py").write_text("")
    (folder / "unrelated.py").write_text("")
    return folder


def test_imports_are_followed(tmp_path: Path) -> None:
    found = source.reachable("net", [project(tmp_path)])
    assert set(found) == {"net", "pkg", "pkg.layers", "pkg.helper", "pkg.more", "deep"}


def test_only_what_is_reached_changes_the_digest(tmp_path: Path) -> None:
    roots = [project(tmp_path)]
    before = source.digest("net", roots)
    (tmp_path / "unrelated.py").write_text("y = 2\n")
    assert source.digest("net", roots) == before
    (tmp_path / "deep.py").write_text("y = 2\n")
    assert source.digest("net", roots) != before


def test_a_syntax_error_is_left_for_the_import_to_report(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def (\n")
    assert set(source.reachable("net", [tmp_path])) == {"net"}


def test_our_own_stages_reach_their_code() -> None:
    root = Path(source.__file__).parent.parent
    found = source.reachable("pipeline.stages.race", [root], ("pipeline", "targets", "calibration"))
    assert {"pipeline.stages.measure", "targets.timing", "calibration.metrics", "targets.agent"} <= set(found)
    assert not any(name.startswith("numpy") for name in found)


def test_data_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.npz").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"2")
    assert set(source.digest_files(["d", "*.txt"], tmp_path)) == {"d/a.npz", "b.txt"}


NEVER = {
    "plain": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deep\n",
    "of the module": "import typing\nif typing.TYPE_CHECKING:\n    import deep\n",
    "of a short name": "import typing as t\nif t.TYPE_CHECKING:\n    import deep\n",
    "under another name": "from typing_extensions import TYPE_CHECKING as checks\nif checks:\n    import deep\n",
    "by hand": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import deep\n",
    "else": "import typing\nif not typing.TYPE_CHECKING:\n    x = 1\nelse:\n    import deep\n",
    "elif": "import os, typing\nif os.sep == '!':\n    x = 1\nelif typing.TYPE_CHECKING:\n    import deep\n",
    "and": "import os, typing\nif typing.TYPE_CHECKING and os.sep:\n    import deep\n",
    "nested": "from typing import TYPE_CHECKING\ndef f():\n    if TYPE_CHECKING:\n        from deep import x\n",
    "nothing": "if False:\n    import deep\nif 0:\n    import deep\n",
}
RUNS = {
    "the other branch": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import deep\n",
    "not": "import typing\nif not typing.TYPE_CHECKING:\n    import deep\n",
    "or": "import os, typing\nif typing.TYPE_CHECKING or os.sep:\n    import deep\n",
    "its own": "from settings import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deep\n",
    "set again": "from typing import TYPE_CHECKING\nTYPE_CHECKING = bool(1)\nif TYPE_CHECKING:\n    import deep\n",
    "else of true": "if True:\n    import deep\n",
}


@pytest.mark.parametrize("text", NEVER.values(), ids=NEVER)
def test_what_only_a_type_checker_imports_is_not_followed(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.py").write_text("x = 1\n")
    (tmp_path / "net.py").write_text(text)
    assert set(source.reachable("net", [tmp_path])) == {"net"}


@pytest.mark.parametrize("text", RUNS.values(), ids=RUNS)
def test_what_may_run_is_followed(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.py").write_text("x = 1\n")
    (tmp_path / "net.py").write_text(text)
    assert set(source.reachable("net", [tmp_path])) == {"net", "deep"}


PLAIN = "import os\n\n\nclass A:\n    def f(self):\n        return os.sep, 'text', 2.0\n"
COMMENTS = "# why\nimport os  # here\n\n\n\nclass A:\n    def f(self):\n        return os.sep, 'text', 2.0"
DOCSTRINGS = "'1'\nimport os\nclass A:\n    '2'\n    def f(self):\n        '3'\n        return os.sep, 'text', 2.0\n"


@pytest.mark.parametrize("text", [COMMENTS, DOCSTRINGS], ids=["comments", "docstrings"])
def test_a_comment_changes_the_text_and_not_the_meaning(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.py").write_text(PLAIN)
    meaning, whole = source.digest("net", [tmp_path], meaning=True), source.digest("net", [tmp_path])
    (tmp_path / "net.py").write_text(text)
    assert source.digest("net", [tmp_path], meaning=True) == meaning
    assert source.digest("net", [tmp_path]) != whole  # other people's code may read its own source


@pytest.mark.parametrize(
    ("old", "new"),
    [("2.0", "2"), ("os.sep", "os.name"), ("'text'", "'Text'"), ("class A", "class B"), ("return", "yield")],
)
def test_all_else_changes_the_meaning(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "net.py").write_text(PLAIN)
    before = source.digest("net", [tmp_path], meaning=True)
    (tmp_path / "net.py").write_text(PLAIN.replace(old, new))
    assert source.digest("net", [tmp_path], meaning=True) != before


def test_a_text_that_stands_alone_is_a_docstring_only_where_it_comes_first(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("f'{print(1)}'\n")
    before = source.digest("net", [tmp_path], meaning=True)
    (tmp_path / "net.py").write_text("f'{print(2)}'\n")
    assert source.digest("net", [tmp_path], meaning=True) != before


def test_what_a_package_compiles_counts(tmp_path: Path) -> None:
    for folder in ("pkg", "pkg/c", "pkg/other"):
        (tmp_path / folder).mkdir()
    for module in ("pkg/__init__.py", "pkg/layers.py", "pkg/other/__init__.py"):
        (tmp_path / module).write_text("")
    for kernel in ("pkg/c/add.c", "pkg/other/far.c", "pkg/notes.md"):
        (tmp_path / kernel).write_text("1")
    before = source.digest("pkg.layers", [tmp_path])
    for unseen in ("pkg/other/far.c", "pkg/notes.md"):
        (tmp_path / unseen).write_text("2")
        assert source.digest("pkg.layers", [tmp_path]) == before
    (tmp_path / "pkg/c/add.c").write_text("2")
    assert source.digest("pkg.layers", [tmp_path]) != before


def test_a_name_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    for name in ("all[1].npz", "all1.npz", "b*.txt", "bc.txt"):
        (tmp_path / name).write_text(name)
    assert set(source.digest_files(["all[1].npz"], tmp_path)) == {"all[1].npz"}
    assert set(source.digest_files(["b*.txt"], tmp_path)) == {"b*.txt"}
    assert set(source.digest_files(["all[0-9].npz"], tmp_path)) == {"all1.npz"}


def test_files_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "a.npz").write_text("1")
    for pattern in (tmp_path / "a.npz", tmp_path / "*.npz", tmp_path / "[a].npz"):
        assert len(source.digest_files([str(pattern)], tmp_path / "recipe")) == 1
    assert set(source.digest_files(["../a.npz"], tmp_path / "recipe")) == {"../a.npz"}


@pytest.mark.parametrize("pattern", ["none.npz", "*.npz", "/nowhere/*.npz", "/nowhere", "a**b", "", "a\0b"])
def test_a_pattern_that_names_nothing_is_refused_by_its_name(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="data_files: ") as refused:
        source.digest_files([pattern], tmp_path)
    assert repr(pattern) in str(refused.value)
