"""What a report owes to those who do not see it well: `python -m tests.studies.engine.accessible`.

Contrast after WCAG 2.2, level AA: 4.5 for text, 3 for lines and markers, in both colour schemes; a
text that states the finding of every picture; headings that skip no level; tables with headings.
"""

import html.parser
import itertools
import re
import sys
from pathlib import Path

# The page's own background is the browser's: that of Chromium, Firefox and Safari.
SCHEMES = {"light": ("#ffffff", "#000000"), "dark": ("#1e1e1e", "#ffffff")}
TEXT, GRAPHICS = 4.5, 3.0


def luminance(colour):
    """Relative luminance of red, green and blue from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """Of two colours, from 1 to 21."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def colour_of(word, background=(0.0, 0.0, 0.0)):
    """A hexadecimal colour; one that is translucent lies on the background."""
    digits = word[1:] if len(word) > 5 else "".join(2 * digit for digit in word[1:])
    red, green, blue, alpha = (int((digits + "ff")[i : i + 2], 16) / 255 for i in (0, 2, 4, 6))
    return tuple(
        alpha * c + (1 - alpha) * b for c, b in zip((red, green, blue), background, strict=True)
    )


class Outline(html.parser.HTMLParser):
    """Elements with their attributes, those within a picture aside."""

    def __init__(self, text):
        super().__init__()
        self.found, self.drawn, self._inside = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if self._inside:
            self.drawn.append((tag, attributes))
        else:
            self.found.append((tag, attributes))
        self._inside += tag == "svg"

    def handle_endtag(self, tag):
        self._inside -= tag == "svg"


def drawn_in(attributes):
    """The opaque colours of an element of a picture."""
    style = dict(re.findall(r"([\w-]+):\s*([^;]+)", attributes.get("style", "")))
    both = {**attributes, **style}
    if float(both.get("opacity", 1)) < 1:
        return set()  # a band or a grid beside a line that says the same
    parts = [part for part in ("stroke", "fill") if float(both.get(f"{part}-opacity", 1)) == 1]
    return {both[part] for part in parts if re.fullmatch(r"#\w{6}", both.get(part) or "")}


def faults(text):
    """Everything on a page that someone cannot see or is not told."""
    outline, told = Outline(text), []
    levels = [int(tag[1]) for tag, _ in outline.found if re.fullmatch(r"h[1-6]", tag)]
    if levels[:1] != [1] or levels.count(1) != 1:
        told.append(f"the first heading, and no other, is h1, not {levels}")
    if any(b - a > 1 for a, b in itertools.pairwise(levels)):
        told.append(f"a level of headings is skipped: {levels}")
    for tag, attributes in outline.found:
        pictured = tag == "img" or attributes.get("role") == "img"
        words = attributes.get("alt") or attributes.get("aria-label") or ""
        if pictured and len(words.split()) < 3:
            told.append(f"a picture says {words!r} of itself")
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            told.append("a drawing is read out")
        if tag == "th" and not attributes.get("scope"):
            told.append("a heading of a table does not say of what")
        if tag == "html" and not attributes.get("lang"):
            told.append("the page has no language")
    for scheme, (ground, ink) in SCHEMES.items():
        told += [f"{scheme}: {fault}" for fault in _pale(text, outline, scheme, ground, ink)]
    return told


def _pale(text, outline, scheme, ground, ink):
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    parts = re.split(r"@media \(prefers-color-scheme: dark\)", style)
    names = re.compile(r"--([\w-]+):\s*(#\w+)")
    values = dict(names.findall(parts[0]))
    if scheme == "dark":
        values |= dict(names.findall(parts[1].split("}")[0]))
    grounds = [colour_of(ground)]
    grounds += [colour_of(values["soft"], grounds[0])] if "soft" in values else []
    words = {*re.findall(r"(?<![\w-])color:\s*([^;}]+)", style)}
    for word in words:
        name = re.sub(r"var\(--([\w-]+)\)", lambda found: values[found[1]], word.strip())
        name = {"CanvasText": ink, "Canvas": ground}.get(name, name)
        least = min(contrast(colour_of(name), ground) for ground in grounds)
        if least < TEXT:
            yield f"text in {word} ({name}) has a contrast of {least:.2f}"
    for colour in {one for _, attributes in outline.drawn for one in drawn_in(attributes)}:
        if contrast(colour_of(colour), grounds[0]) < GRAPHICS:
            yield f"lines in {colour} have one of {contrast(colour_of(colour), grounds[0]):.2f}"


if __name__ == "__main__":
    wrong = [
        f"{file}: {fault}" for file in sys.argv[1:] for fault in faults(Path(file).read_text())
    ]
    sys.exit("\n".join(wrong) or None)
