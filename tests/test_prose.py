"""Plain English: no words of a private language, numbers with their zero, short sentences."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("odeopt", "tests", "benchmarks", "examples", "docs", "paper")
FILES = [
    *sorted(ROOT.glob("*.md")),
    *(
        file
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".md", ".jinja") and file != Path(__file__)
    ),
]
START = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{page}.md" for page in ("index", "getting-started")),
]

# Word, also as a part of a name such as `_used_up` or `AbstractAdapter`: what to write instead.
PRIVATE = {
    "hole|holes|punched": "mask, masked",
    "bend|bends|bent|bending": "curvature, quadratic form",
    "face": "diffrax class, adapter",
    "spend|spends|spent|spending": "count, evaluate, cost",
    "charge|charges|charged|charging": "count",
    "downhill": "a descent direction",
}
# What is private in one use, and good English in another.
PHRASES = {
    r"\bTurns\b(?! the)|\bturns( = |\.\w)": "the sum of losses, `LossSum`",
    r"\bways?( = |\[)|\bthe way (from|to its) |\bof the way\b": "displacement, distance",
    r"\bfor nothing\b": "at no extra cost",
}
SHORT = r"(?<![\w.)\]}:,+<>%\\/*-])-?\.\d|(?<=[\s(\[{=$|])-\.\d"


def pattern(words: str) -> re.Pattern:
    capital = "|".join(word.capitalize() for word in words.split("|"))
    return re.compile(rf"(?<![A-Za-z])(?i:{words})(?![a-z])|(?<=[a-z])(?:{capital})(?![a-z])")


def hits(found: re.Pattern, files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if found.search(line)
    ]


def test_no_private_words():
    found = {advice: hits(pattern(words), FILES) for words, advice in PRIVATE.items()}
    assert {f"write: {advice}": lines for advice, lines in found.items() if lines} == {}


def test_no_private_phrases():
    found = {advice: hits(re.compile(phrase), FILES) for phrase, advice in PHRASES.items()}
    assert {f"write: {advice}": lines for advice, lines in found.items() if lines} == {}


def test_private_words_are_found_in_names_and_not_in_other_words():
    found = pattern("face|faces")
    assert all(map(found.search, ["a face", "_face_of", "AbstractFace", "Faces:"]))
    assert not any(map(found.search, ["surface", "interface", "faced", "preface"]))


def test_numbers_begin_with_a_digit():
    files = [file for file in FILES if file.suffix != ".jinja"]  # those have style sheets
    assert hits(re.compile(SHORT), files) == [], "write 0.5, not .5"


def sentences(page: Path) -> list[str]:
    """Those of the running text: no code, no tables; a link is its text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n\s*[-*] |\n\s*\d+\. ", text)
    return [s for block in blocks for s in re.split(r"(?<=[.!?])\s+", " ".join(block.split()))]


def test_sentences_are_short_where_a_reader_begins():
    assert [s for page in START for s in sentences(page) if len(s.split()) > 35] == []
