"""Reports: no request, no id twice, all text escaped, figures that say what is seen."""

import html.parser
import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from odeopt.studies.engine import Results, drawing, page
from odeopt.studies.engine.load import own_optimizers, word_of

from . import accessible
from .toy import STUDY, Settings


class Outline(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.order = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "toy"
    results = STUDY.run(out=out)
    path = page.write(results, out)
    return path, path.read_text(), Outline(path.read_text())


def test_nothing_is_asked_of_a_network(written):
    _, _, outline = written
    for tag, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "action"):
            address = attributes.get(name) or ""
            assert not re.match(r"(https?:)?//", address), (tag, address)
    assert "@import" not in written[1]
    assert not re.findall(r"url\((?!#)", written[1])


def test_ids_are_unique_and_links_lead_somewhere(written):
    path, _, outline = written
    ids = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for attributes in outline.all("a"):
        target = attributes["href"]
        assert target[1:] in ids if target.startswith("#") else (path.parent / target).exists()


def test_headings_alternatives_and_language_are_there(written):
    _, text, outline = written
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    pictures = [a for _, a in outline.tags if a.get("role") == "img"]
    assert [a["aria-label"] for a in pictures] == ['Roots "rise" & rise.']
    assert outline.all("html")[0]["lang"] == "en"
    assert text.index("The largest root") < text.index("<figure")  # the verdict comes first


def test_everything_on_a_page_can_be_seen_and_read(written):
    path, text, _ = written
    assert accessible.faults(text) == []
    assert accessible.faults(page.write_index(path.parent.parent).read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("<h1", "<h2", "no other, is h1"),
        ('<h2 id="claims"', '<h4 id="claims"', "a level of headings is skipped"),
        ('aria-label="Roots', 'title="Roots', "a picture says '' of itself"),
        ('aria-hidden="true"', "", "a drawing is read out"),
        ('scope="col"', "", "does not say of what"),
        ('lang="en"', "", "no language"),
        ("--link: #0b57d0", "--link: #8ab4f8", r"light: text in var\(--link\)"),
        ("--link: #8ab4f8", "--link: #0b57d0", r"dark: text in var\(--link\)"),
        ("color: CanvasText", "color: #777", "light: text in #777"),
        ("stroke: currentColor", "stroke: #e69f00", "light: lines in #e69f00 have one of 2.2"),
        ("stroke: currentColor", "stroke: #414487", "dark: lines in #414487"),
    ],
)
def test_what_cannot_be_seen_or_read_is_found(written, old, new, fault):
    assert old in written[1]
    assert re.search(fault, "\n".join(accessible.faults(written[1].replace(old, new))))


def test_contrast_is_that_of_the_recommendation():
    black, white = accessible.colour_of("#000"), accessible.colour_of("#ffffff")
    assert accessible.contrast(black, white) == pytest.approx(21)
    grey = accessible.colour_of("#777777")
    assert accessible.contrast(grey, white) == pytest.approx(4.48, abs=5e-3)
    assert accessible.colour_of("#0008", white) == pytest.approx(3 * [1 - 0x88 / 255])


def test_what_a_user_wrote_is_text(written):
    _, text, _ = written
    assert "[/red] &lt;i&gt;." in text
    assert "<i>." not in text
    assert "a &lt;letter&gt;" in text


def test_settings_are_said_in_words(written):
    assert "names: a, b, c; count: 4; pause: 0.0; loud: no." in written[1]


def test_figures_take_their_ink_from_the_page(written):
    path, text, _ = written
    assert drawing.INK not in text
    files = sorted((path.parent / "figures").iterdir())
    assert [file.name for file in files] == [f"roots-{n}.svg" for n in range(3)]
    for file in files:
        assert "currentColor" in file.read_text()
        ET.fromstring(file.read_text())  # whole XML
        assert file.read_text() in text


def test_an_optimizer_looks_the_same_in_every_figure():
    everywhere = drawing.styles_of(["rk4", "sgd", "mine"])
    other = drawing.styles_of(["yours", "mine", "rk4"])
    assert everywhere["rk4"] == other["rk4"]
    looks = drawing.styles_of([*drawing.FAMILY, *map(str, range(20))])
    kinds = {(s["color"], s["marker"], s["linestyle"]) for s in looks.values()}
    assert len(kinds) == len(looks)
    first = drawing.styles_of(drawing.FAMILY[:7]).values()
    assert len({style["color"] for style in first}) == 7


def test_an_index_has_every_verdict_and_overwrites_nothing_else(written, tmp_path):
    path, _, _ = written
    index = page.write_index(path.parent.parent)
    text = index.read_text()
    assert "The largest root" in text
    assert 'href="toy/report.html"' in text
    for name, wrong in {"torn": '{"question": ', "old": "[1]"}.items():
        (path.parent.parent / name).mkdir()
        (path.parent.parent / name / page.VERDICT).write_text(wrong)
    text = page.write_index(path.parent.parent).read_text()  # its own kind it replaces
    assert "The largest root" in text
    assert text.count("Cannot be read: ") == 2
    index.write_text("mine")
    with pytest.raises(ValueError, match="is not an index of reports"):
        page.write_index(path.parent.parent)
    index.unlink()
    index.mkdir()
    with pytest.raises(ValueError, match="is not an index of reports"):
        page.write_index(path.parent.parent)
    with pytest.raises(ValueError, match="no report in the folders of"):
        page.write_index(tmp_path)


def test_the_command_line_makes_the_same_study():
    assert page.command(STUDY.run()) == "odeopt toy"
    assert page.command(STUDY.run(names=["b", "c"], count=2)) == "odeopt toy --names b,c --count 2"
    own = Results(STUDY, Settings(names=("b", {"mine": None}), pause=0.5), [])
    assert page.command(own) == "odeopt toy --names b,FILE.py:NAME --pause 0.5"


def test_the_command_names_the_file_of_what_was_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def make(h):\n    return None\n\nboth = {'a': make}\n")
    (alone, both) = own_optimizers(["mine.py:make", "mine.py:both"])
    assert (word_of(alone), word_of(both)) == ("mine.py:make", "mine.py:both")
    assert word_of({"other": print}) == "FILE.py:NAME"
