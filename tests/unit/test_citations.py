"""Every citation leads somewhere: `protocols/PAGE.md N.M`, `docs/PAGE.md "Heading"`, `decision N`.

One form, so that a reader can follow it and this test can: a page of this repository and the number
of a section, several numbers of a page by commas. Pages of `protocols/` name each other without the
folder. Decisions are numbered without a gap.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = ROOT / "protocols"
DECISIONS = PROTOCOLS / "decisions"
READ = (".py", ".md", ".mjs", ".js", ".toml", ".yml", ".yaml", ".service", "")
PAGES = "|".join(sorted(path.stem for path in PROTOCOLS.glob("*.md")))

NUMBER = r"\d+(?:\.\d+)*"
NUMBERS = rf"{NUMBER}(?:, {NUMBER}(?![\w-]))*"
# `protocols/market.md 3.2`; in pages also `market.md` 3.2 and [protocols/market.md](...) 3.2.
CITATION = re.compile(rf"\b((?:protocols/)?)({PAGES})\.md(?:`|\]\([^)\s]+\))? ({NUMBERS})")
OWN_SECTION = re.compile(rf"\bsections? ({NUMBER})|\((\d\.\d\d?)\)")
HEADING = re.compile(r'\b(docs/[a-z-]+\.md) ("[^"]+"(?:, "[^"]+")*)')
DECISION = re.compile(r"\b[Dd]ecisions? (\d{4}(?:(?:,| and|, and) \d{4})*)")
DECISION_FILE = re.compile(r"\bdecisions/([\w-]+\.md)")

# What a `Source:` may name. Remarks stand in brackets behind it.
ITEM = (
    rf"(?:protocols/(?:{PAGES})\.md {NUMBERS}(?: step \d)?"
    r"|protocols/errors\.md"
    r'|docs/[\w-]+\.md "[^"]+"(?:, "[^"]+")*'
    r"|decision \d{4}"
    r"|RFC \d+(?: section \d+)?"
    r'|libp2p/specs [\w./-]+(?: to v1\.2)?(?: "[^"]+")?)'
    r"(?: \([^)]*\))?"
)
SOURCE = re.compile(r"\bSource: (?=\S)(?!TypeAlias)")
WELL_SOURCED = re.compile(rf"{ITEM}(?:[,;] {ITEM})*\.(?!\w)")
# Names of papers that nobody can open, and pages without their folder.
PAPERS = re.compile(
    r"(?<!protocols/)\b(?:surface|architecture|market|network|lessons?|"
    rf"{PAGES}) (?:[A-D][. ])?\d[\d.]*\b"
    rf"|(?<![/\w`-])(?:{PAGES})\.md \d|(?<!\d )\bsections? \d|\bprotocols/[\w-]+\.md,? \""
)
# Docstrings; comments of one or more whole lines; comments behind code; and those of JavaScript.
COMMENTS = re.compile(
    r'"""(.*?)"""|((?:^[ \t]*(?:#|//)(?: [^\n]*)?\n?)+)|  (?:#|//) ([^\n]*)|/\*+ (.*?)\*/',
    re.DOTALL | re.MULTILINE,
)


@cache
def sections(page: str) -> frozenset[str]:
    """Numbers of the sections of a page of `protocols/`."""
    text = (PROTOCOLS / f"{page}.md").read_text(encoding="utf-8")
    return frozenset(re.findall(rf"^#+ ({NUMBER})\.? ", text, re.MULTILINE))


@cache
def headings(page: str) -> frozenset[str]:
    path = ROOT / page
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return frozenset(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def on_one_line(text: str) -> str:
    """`text` with citations that a line's end had cut in one piece."""
    return re.sub(r"\s*\n[ \t]*(?:(?:#|//|\*) )?[ \t]*(?=\S)", " ", text)


def citations(text: str, page: str | None) -> Iterator[tuple[str, bool]]:
    """(citation, whether it leads somewhere) of a text; `page` if it is one of `protocols/`."""
    text = on_one_line(text)
    for _, name, numbers in CITATION.findall(text):
        for number in numbers.split(", "):
            yield f"{name}.md {number}", number in sections(name)
    for name, titles in HEADING.findall(text):
        for title in re.findall(r'"([^"]+)"', titles):
            yield f'{name} "{title}"', title in headings(name)
    for numbers in DECISION.findall(text):
        for number in re.findall(r"\d{4}", numbers):
            yield f"decision {number}", any(DECISIONS.glob(f"{number}-*.md"))
    for name in DECISION_FILE.findall(text):
        yield f"decisions/{name}", (DECISIONS / name).is_file()
    if page is not None:
        for numbers in OWN_SECTION.findall(re.sub(r"RFC \d+ section \d+", "", text)):
            number = numbers[0] or numbers[1]
            yield f"section {number} of {page}.md", number in sections(page)


def misshapen(text: str) -> Iterator[str]:
    """What cites in another form than the one, in comments and docstrings of a program."""
    for comment in COMMENTS.finditer(text):
        said = on_one_line("\n" + next(part for part in comment.groups() if part is not None))
        for found in PAPERS.finditer(re.sub(r"RFC \d+,? sections? \d+", "", said)):
            yield found[0]
        for found in SOURCE.finditer(said + "."):
            if not WELL_SOURCED.match(said + ".", found.end()):
                yield said[found.start() : found.end() + 60]


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [ROOT / name for name in listed.stdout.split("\0") if name] or list(ROOT.rglob("*"))
    kept = (path for path in names if path.is_file() and path.suffix in READ)
    return [path for path in kept if not _is_data(path) and path != Path(__file__).resolve()]


def _is_data(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return parts[0].startswith(".") or "vectors" in parts[:2] or "node_modules" in parts


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


FILES = files()


def test_every_citation_leads_somewhere() -> None:
    found = [
        (f"{path.relative_to(ROOT)}: {cited}", leads)
        for path in FILES
        for cited, leads in citations(
            text_of(path), path.stem if path.parent == PROTOCOLS else None
        )
    ]
    assert len(found) > 300
    assert [cited for cited, leads in found if not leads] == []


def test_every_citation_of_the_program_has_the_one_form() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {wrong}"
        for path in FILES
        if path.suffix != ".md"
        for wrong in misshapen(text_of(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('"""Adds. Source: protocols/market.md 3.2, 4.1."""', 0),
        ('"""Adds. Source: protocols/market.md 3.2; RFC 9106 (parameters)."""', 0),
        ('"""Adds. Source: protocols/market.md\n    3.2, decision 0004, with care."""', 1),
        ('"""Adds. Source: protocols/market.md "Matching"."""', 2),
        ('"""Adds. Source: the market."""', 1),
        ("# As market.md 3.2 says.", 1),
        ("# As the paper says: consensus\n# 2.8.", 1),
        ("# Surface of 3; surface A.8 of it.", 1),
        ("x = market  # section 5 of it", 1),
    ],
)
def test_another_form_is_seen(text: str, wrong: int) -> None:
    assert len(list(misshapen(text))) == wrong


def test_citations_that_lead_nowhere_are_seen() -> None:
    for text in (
        "protocols/market.md 3.9",
        "protocols/market.md 3.2,\n    9.9",
        "decisions 0001 and 0999",
        "decisions/0001-nothing.md",
        'docs/api.md "Nothing"',
    ):
        assert [leads for _, leads in citations(text, None)].count(False) == 1, text
    assert dict(citations("section 3 (9.9), RFC 6762 section 18", "market")) == {
        "section 3 of market.md": True,
        "section 9.9 of market.md": False,
    }


def test_decisions_are_numbered_without_a_gap() -> None:
    """And begin with their number and say what was decided, and what was not."""
    pages = sorted(DECISIONS.glob("*.md"))
    assert [path.name[:4] for path in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]} "), path.name
        for part in ("Context", "Decision", "Rejected", "Consequences"):
            assert re.search(rf"^(\*\*{part}\.\*\*|## {part}$)", text, re.MULTILINE), path.name
