"""Does it hold here? Every claim of the papers, one command.

`odeopt reproduce` runs claims, judges them by criteria that were fixed before, and writes a report
with an index by paper; every call adds to the same folder of results.
"""

import dataclasses
import functools
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from . import data
from .claim import NOT_RUN, WORDS, Claim, Found, Judgement
from .claims import claims
from .engine import Check, Figure, Lab, Results, Study, Table, Task
from .engine import command as engine
from .engine.drawing import INK, Plot
from .engine.store import Record, StoreError, write_text
from .engine.study import versions
from .engine.terminal import grid
from .names import lookup
from .papers import PAPERS

SUMMARY = "summary.json"
FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        claims: Names of the claims to run.
        full: More seeds and longer runs.
        first_seed: The first seed of each claim; the others follow it.
    """

    claims: tuple[str, ...] = ()
    full: bool = False
    first_seed: int = 0

    def __post_init__(self) -> None:
        if self.first_seed < 0:
            raise ValueError(f"--first-seed is {self.first_seed}; give a whole number from 0 on.")
        for name in self.claims:
            lookup("claim", name, claims())


def missing(names: Iterable[str]) -> dict[str, str]:
    """Those of these claims whose data are not here, and how to get them; a set is loaded once."""

    @functools.cache
    def reason(data_set: str) -> str:
        try:
            data.load(data_set)
        except data.MissingData as error:
            return str(error)
        return ""

    needed = {name: lookup("claim", name, claims()).data for name in names}
    reasons = {name: next(filter(None, map(reason, sets)), "") for name, sets in needed.items()}
    return {name: words for name, words in reasons.items() if words}


def tasks(settings: Settings) -> list[Task]:
    """A task for each seed of a claim; of claims that are not asked for, what the folder has."""
    found, absent = [], missing(settings.claims)
    for name, claim in claims().items():
        if claim.experiment is None or name in absent:
            continue
        weight = claim.seconds[settings.full] * (name in settings.claims)
        for number in range(claim.seeds[settings.full]):
            seed = settings.first_seed + number
            work = functools.partial(_work, name, claim, seed, settings)
            found.append(Task(f"{name}, seed {seed}", work, weight))
    return found


def _work(name: str, claim: Claim, seed: int, settings: Settings, lab: Lab) -> list[Record]:
    piece = f"{name} {claim.version}, seed {seed}"
    if name not in settings.claims:
        return lab.store.get(piece) or []

    def measured() -> list[Record]:
        assert claim.experiment is not None
        begin = time.perf_counter()
        found = dict(claim.experiment(seed, settings.full))
        seconds = time.perf_counter() - begin
        return [{"kind": "claim", "claim": name, "seed": seed, "seconds": seconds, "found": found}]

    try:
        return lab.once(piece, measured)
    except StoreError:
        raise
    except (ArithmeticError, RuntimeError, ValueError) as error:  # not kept: run again by --resume
        words = str(error).strip().split("\n")[0] or type(error).__name__
        return [{"kind": FAILED, "claim": name, "reason": f"seed {seed} failed: {words}"}]


def found_of(results: Results, name: str) -> list[Found]:
    """What each seed of a claim found; nothing before all of them are done."""
    found = [r["found"] for r in results.kind("claim") if r["claim"] == name]
    return found if len(found) == claims()[name].seeds[results.settings.full] else []


@functools.lru_cache(maxsize=1)
def judgements(results: Results) -> dict[str, Judgement]:
    """Every claim's verdict; computed once for all tables of the same results."""
    absent = missing(results.settings.claims)
    judged = {
        name: claim.judge(found_of(results, name), absent.get(name, ""))
        for name, claim in claims().items()
    }
    return judged | {r["claim"]: Judgement(NOT_RUN, r["reason"]) for r in results.kind(FAILED)}


def _claims(results: Results) -> pd.DataFrame:
    rows = []
    for name, judgement in judgements(results).items():
        claim = claims()[name]
        asked = name in results.settings.claims or claim.experiment is not None
        if (judgement.word == NOT_RUN and not judgement.reason) or not asked:
            continue
        about = {"paper": PAPERS[claim.papers[0]].title, "claim": name, "verdict": judgement.word}
        about |= {"says": claim.says, "reason": judgement.reason}
        seconds = [r["seconds"] for r in results.kind("claim") if r["claim"] == name]
        rows.append({**about, "seeds": len(seconds), "seconds": sum(seconds)})
    return pd.DataFrame(rows)


def _papers(results: Results) -> pd.DataFrame:
    judged = judgements(results)
    rows = []
    for key, paper in PAPERS.items():
        mine = [f"{name}: {judged[name].word}" for name, c in claims().items() if key in c.papers]
        about = {"paper": paper.title, "arxiv": paper.arxiv, "kind": paper.kind}
        rows.append({**about, "claims": ", ".join(mine) or paper.none or "none yet"})
    return pd.DataFrame(rows)


def _checks(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"claim": name, "law": law, **dataclasses.asdict(check)}
        for name, judgement in judgements(results).items()
        for law, checks in (("claimed", judgement.checks), ("wrong", judgement.controls))
        for check in checks
    )


def counts(words: pd.Series) -> str:
    """How many claims have which verdict."""
    return ", ".join(f"{(words == word).sum()} {word}" for word in WORDS if (words == word).any())


def _verdict(results: Results) -> str:
    table = results.table("claims")
    return f"Of {len(table)} claims: {counts(table.verdict)}." if len(table) else "No claim yet."


def _overview(results: Results) -> Plot:
    table, plot = results.table("claims"), Plot(width=6.0, height=1.6)
    for word in WORDS[::-1]:
        if len(table) and (number := (table.verdict == word).sum()):
            plot.panel("verdicts", "claims", "").barh([word], [number], color=INK, alpha=0.5)
    return plot


def _figure(name: str, claim: Claim) -> Figure:
    def finding(results: Results) -> str:
        row = results.table("claims").set_index("claim").loc[name]
        return f"{name}: {row.verdict}. {row.reason}."

    sources = "; ".join(str(PAPERS[key]) for key in claim.papers)
    criterion = "; ".join(f"{bound.quantity} {bound.wanted}" for bound in claim.criterion)
    shown = "Lines are medians of the seeds, bands their range. " if claim.seeds[0] > 1 else ""
    caption = f"{claim.says} ({sources}) {claim.note} {shown}Criterion: {criterion}."
    return Figure(name, lambda results: claim.draw(found_of(results, name)), caption, finding)


CLAIM_COLUMNS = {
    "paper": ("paper", "the first paper with this claim"),
    "claim": ("claim", "name"),
    "verdict": ("verdict", "by a criterion fixed before the run"),
    "says": ("says", "the claim"),
    "reason": ("reason", "the measured values: the median of the seeds, or the worst seed"),
    "seeds": ("seeds", "number of runs; one if nothing is random"),
    "seconds": ("seconds", "of all seeds, compilation included"),
}
PAPER_COLUMNS = {
    "paper": ("paper", "its title"),
    "arxiv": ("arXiv", "its number"),
    "kind": ("kind", "a paper that odeopt was built from, one that followed, or a related one"),
    "claims": ("claims", "with their verdicts, or why there is none"),
}
CHECK_COLUMNS = {
    "claim": ("claim", "name"),
    "where": ("quantity", "what was measured"),
    "value": ("value", "the median of the seeds, or the worst seed"),
    "wanted": ("wanted", "the bound"),
    "holds": ("holds", "whether the value meets the bound"),
    "law": ("law", "the claimed law, or a wrong law, whose bounds must be missed"),
}
TABLES = (
    Table("claims", "Claims", _claims, CLAIM_COLUMNS, ("claim", "verdict", "reason")),
    Table("papers", "Index by paper", _papers, PAPER_COLUMNS),
    Table("checks", "Every number and its bound", _checks, CHECK_COLUMNS),
)


@functools.cache
def study() -> Study:
    """The declaration; made late, for it imports every claim."""
    overview = Figure("overview", _overview, "Claims by their verdict.", _verdict)
    return Study(
        name="reproduce",
        question="Which claims of the papers hold here?",
        summary="Tests claims of papers by criteria fixed beforehand.",
        settings=Settings,
        full={"full": True},
        tasks=tasks,
        verdict=_verdict,
        tables=TABLES,
        figures=(overview, *(_figure(name, claim) for name, claim in claims().items())),
        page="docs/claims.md",
        selection="claims",
    )


def run(*names: str, **options: Any) -> Results:
    """Run claims by name; options are those of `Study.run`."""
    return study().run(claims=names, **options)


def summary(results: Results) -> Record:
    """What is kept of a run: machine, versions, seeds, verdicts."""
    judged = judgements(results)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "full": results.settings.full,
        "first seed": results.settings.first_seed,
        "claims": {
            row.claim: {
                "verdict": row.verdict,
                "reason": row.reason,
                "seeds": row.seeds,
                "seconds": round(row.seconds, 1),
                "numbers": _numbers(judged[row.claim].checks),
                "wrong laws": _numbers(judged[row.claim].controls),
            }
            for row in results.table("claims").itertuples()
        },
    }


def _numbers(checks: Iterable[Check]) -> dict[str, str]:
    return {check.where: f"{check.value:.4g}" for check in checks}


def listing(full: bool, kept: Mapping[str, Any]) -> pd.DataFrame:
    """Paper, claim, cost and status of every claim."""
    rows, absent = [], missing(claims())
    for name, claim in claims().items():
        last = kept.get(name, {})
        took = last.get("seconds")
        cost = f"{took:.0f} s" if took else f"about {claim.seconds[full]:.0f} s"
        status = last.get("verdict") or claim.judge([], absent.get(name, "")).word
        paper = PAPERS[claim.papers[0]]
        about = {"paper": paper.arxiv or paper.title, "claim": name}
        rows.append({**about, "cost": cost if claim.experiment else "–", "status": status})
    return pd.DataFrame(rows).sort_values(["paper", "claim"])


def _kept(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["claims"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}  # it is made of the records, and written anew by the next run


def command(
    *names: str,
    every: Annotated[bool, Parameter("--all", negative="")] = False,
    show: Annotated[bool, Parameter("--list", negative="")] = False,
    first_seed: Annotated[int, Parameter(converter=engine.number)] = 0,
    options: Annotated[engine.Options | None, Parameter(name="*")] = None,
) -> None:
    """Run claims of the papers and judge them; results of earlier calls are kept and shown too.

    Args:
        names: Claims, as --list names them.
        every: All claims. One whose data are not here is out of reach.
        show: Only list them, or all: paper, claim, cost, status in the folder.
        first_seed: The first seed of each claim: another one asks with other random numbers.
        options: Of every study. Results are in claims-quick or claims-full unless --out says
            otherwise; --resume is always on.
    """
    for name in names:
        lookup("claim", name, claims())
    options = options or engine.Options()
    folder = options.out or Path("claims-full" if options.full else "claims-quick")
    kept = _kept(folder)
    if show:
        found = listing(options.full, kept)
        Console().print(grid(found[found.claim.isin(names)] if names else found))
        return
    if not names and not every:
        raise ValueError("name a claim, or pass --all; --list shows them.")
    never = {name: claims()[name].unreachable for name in names if claims()[name].unreachable}
    for name, reason in (never | missing(names)).items():
        raise ValueError(f"{name} cannot run: {reason}")
    chosen = tuple(claims()) if every else names
    if options.full:
        minutes = sum(claims()[name].seconds[True] for name in chosen if name not in kept) / 60
        words = f"About {minutes:.0f} minutes on one core; finished runs survive Ctrl-C."
        Console(stderr=True).print(Text(words))
    options = dataclasses.replace(options, out=folder, resume=True)
    results = engine.run(study(), options, {"claims": chosen, "first_seed": first_seed})
    if options.share is None:
        write_text(folder / SUMMARY, json.dumps(summary(results), indent=1) + "\n")
