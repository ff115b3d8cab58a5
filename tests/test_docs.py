"""The Python blocks of the README and of the documentation run as a reader runs them: each page as one program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
PROGRAMS = {page: re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S) for page in PAGES}


@pytest.mark.parametrize("page", [page for page in PAGES if PROGRAMS[page]])
def test_blocks_run(page):
    command = [sys.executable, "-W", "error", "-c", "\n".join(PROGRAMS[page])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("name", ["demo", "test"])
def test_readme_commands_are_one_line_each(name):
    readme = (ROOT / "README.md").read_text()
    (line,) = re.findall(rf"^<!-- {name} command:.*-->\n```sh\n(.+)\n```$", readme, re.M)
    assert line.startswith("python3 -m venv .venv && ")
