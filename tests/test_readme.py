"""The README's example is a program that runs."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_readme_runs(capsys) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(program, str(README), "exec"), names)
    rank, alignment = map(float, capsys.readouterr().out.split())
    assert 1 < rank < 1000
    assert 0 < alignment < 1
    assert float(names["length"]) > 0


def test_every_page_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    missing = [link for link in links if not (README.parent / link).exists()]
    assert links and not missing
