"""The documentation's Python blocks run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
LAST_LINE_OF_FIRST_BLOCK = 35

# A block is excluded by a comment before it: <!-- not run: needs a GPU -->
BLOCK = re.compile(
    r"(?P<comment><!-- not run: [^>]*\S -->\s*)?"
    r"^```python[^\S\n]*\n(?P<code>.*?)^```[^\S\n]*$",
    re.DOTALL | re.MULTILINE,
)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Lists (line of the fence, code) of the blocks that are to run."""
    return [
        (text.count("\n", 0, match.start("code")), match["code"])
        for match in BLOCK.finditer(text)
        if not match["comment"]
    ]


# What a newcomer reads first runs always, the other guides by `make slow` and in CI.
FIRST = (
    "README.md",
    "prune-my-model.md",
    "masks-and-keras.md",
    "freeze-and-retrain.md",
)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.name, marks=() if path.name in FIRST else pytest.mark.slow
        )
        for path in DOCUMENTS
    ],
)
def test_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": path.stem}
    for line, code in python_blocks(path.read_text(encoding="utf-8")):
        # The blank lines make a traceback show the document's own lines.
        exec(compile("\n" * line + code, str(path), "exec"), namespace)


def test_readme_reaches_an_example_early():
    blocks = python_blocks(README.read_text(encoding="utf-8"))
    assert blocks, "README.md has no Python block"
    assert blocks[0][0] <= LAST_LINE_OF_FIRST_BLOCK


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_names_the_commands(command):
    assert command in README.read_text(encoding="utf-8")


def test_which_blocks_are_found():
    text = (
        "# Title\n\n```python\na = 1\n```\n\n```bash\nmake test\n```\n\n"
        "<!-- not run: needs data -->\n```python\nb = 2\n```\n\n"
        "<!-- a remark -->\n```python\nc = 3\n```\n"
    )
    assert python_blocks(text) == [(3, "a = 1\n"), (17, "c = 3\n")]
