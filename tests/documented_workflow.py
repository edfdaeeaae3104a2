"""The workflow of docs/adding-a-workflow.md, added to a copy of the project as the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "adding-a-workflow.md"
NAME = "remind"

_BLOCK = re.compile(
    r"^```(?:json|python|yaml)\n(?:#|//) (\S+?)(?:, ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
# Where the page says that a part of the template goes, and the line after it.
_PLACES = {
    'before the section "Logs and traces"': re.compile(r"^  # -+\n  # Logs and traces", re.MULTILINE),
    "at the end of the list &Workflows": re.compile(
        r"(?<=execution:\$\{AWS::StackName\}-etl:\*\n)(?=              # How Step)", re.MULTILINE
    ),
    "at the beginning of Outputs": re.compile(r"(?<=^Outputs:\n)", re.MULTILINE),
}


def add_workflow(project: Path, *, without: str | None = None) -> None:
    """Adds the page's files and parts to a project. `without`: the file, or a part's place, to leave out."""
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert {place for _, place, _ in blocks} == {"", *_PLACES}
    for name, place, text in blocks:
        path = project / name
        if without in (name, place):
            continue
        if place:
            template = path.read_text(encoding="utf-8")
            (there,) = _PLACES[place].finditer(template)
            path.write_text(template[: there.start()] + text + template[there.start() :], encoding="utf-8")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
