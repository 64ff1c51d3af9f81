"""Everything in the documentation that follows from the catalogue and the committed results.

`python -m tokenry.catalog.render` (or `make docs-generate`) writes, in a checkout:

- `docs/methods/SLUG.md` for every system that is done or partly done, and `docs/methods/index.md` for all;
- between their markers: the table of rooms in README.md, those of model families in `docs/hosts.md` (from
  `families.json` and `families-mapping.json` in `docs/results`), that of releases in `docs/releases.md` (from
  `docs/results/upstream.json`), those of `docs/intervals.md` (from the three `intervals` files in
  `docs/results`), those of `docs/testbeds.md` (from `testbeds.json` and the `testbed-NAME.json` of each bed in
  `docs/results`), and those of reproductions and of speed in `docs/results.md` (from `docs/results/*.json`);
- in any page of `docs`, between the markers `package.module:NAME`, the table of that registry: a `Registry`, or a
  mapping from names to things with a line of `help`, and perhaps other `names`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenry.catalog import results
from tokenry.catalog.card import ROOMS, STATE_MEANINGS, STATES, Card
from tokenry.catalog.loader import cards
from tokenry.catalog.markdown import escape, table
from tokenry.catalog.page import MEASURED, NOTE, figure, metric, paper, records_table, system_page
from tokenry.catalog.registry import Registry, catalogued
from tokenry.catalog.results import VERDICTS
from tokenry.catalog.testbeds import testbed_tables
from tokenry.tokens.errors import TokenryError
from tokenry.tokens.files import whole_file

_FOLDER = "docs/methods"
_RESULTS = "docs/results"
_VERDICT = "*verdict*: on the paper's claim at small scale, `shown`, `partly` or `not shown`"
_REGISTRY = re.compile(r"<!-- (tokenry[\w.]*:\w+):begin -->")
_PROVENANCE = ("machine", "versions", "date")
_ROOM_TITLES = {
    "reduce": "Fewer tokens",
    "text": "Text and tokens",
    "codecs": "Pictures, video, sound and shapes as tokens",
    "models": "Networks",
    "predict": "Next tokens",
    "learn": "Objectives",
    "embed": "Many tokens to one vector",
    "steer": "Steering with tokens",
    "bench": "Analyses",
}


def generate(root: Path, catalogue: Sequence[Card] | None = None) -> dict[Path, str]:
    """Make every generated file's content, without writing anything.

    Args:
        root: The checkout; its README.md, docs/hosts.md and docs/results.md give the text around the tables.
        catalogue: The cards; by default all of them.

    Returns:
        Content by path relative to `root`.

    Raises:
        TokenryError: If a marker is missing or a result file is not valid.
    """
    catalogue = cards() if catalogue is None else catalogue
    files = {
        Path(card.page): system_page(card, results.find(card, root))
        for card in catalogue
        if card.state != "open"
    }
    verdicts = {card.slug: found.verdict for card in catalogue if (found := results.find(card, root))}
    files[Path(_FOLDER, "index.md")] = _index(catalogue, verdicts)
    for path, name, content in (
        (Path("README.md"), "methods", _readme_table(catalogue, verdicts)),
        (Path("docs/hosts.md"), "families", _recorded(root / _RESULTS / "families.json", "families")),
        (Path("docs/hosts.md"), "classes", _recorded(root / _RESULTS / "families-mapping.json", "classes")),
        (Path("docs/releases.md"), "releases", _recorded(root / _RESULTS / "upstream.json", "releases")),
        *(
            (Path("docs/intervals.md"), name, _recorded(root / _RESULTS / f"{name}.json", name))
            for name in ("intervals-few", "intervals-rules", "intervals")
        ),
        (Path("docs/testbeds.md"), "testbeds", testbed_tables(root / _RESULTS)),
        (Path("docs/results.md"), "reproductions", _reproductions(catalogue, root)),
        (Path("docs/results.md"), "speed", _speed(sorted((root / _RESULTS).glob("bench-*.json")))),
    ):
        text = files.get(path) or (root / path).read_text(encoding="utf-8")
        files[path] = _between_markers(text, name, content, path)
    for path in sorted(page.relative_to(root) for page in (root / "docs").glob("*.md")):
        text = files.get(path) or (root / path).read_text(encoding="utf-8")
        for name in _REGISTRY.findall(text):
            text = files[path] = _between_markers(text, name, _registry(name), path)
    return files


def write(root: Path, catalogue: Sequence[Card] | None = None) -> list[Path]:
    """Write the generated files that changed and remove method pages that no card has any more.

    Returns:
        The paths written or removed, relative to `root`.
    """
    files = generate(root, catalogue)
    changed = [path for path, text in files.items() if _read(root / path) != text]
    for path in changed:
        _replace(root / path, files[path])
    stale = [page.relative_to(root) for page in sorted((root / _FOLDER).glob("*.md"))]
    stale = [page for page in stale if page not in files]
    for page in stale:
        (root / page).unlink()
    return changed + stale


def _index(catalogue: Sequence[Card], verdicts: Mapping[str, str]) -> str:
    """Every system in a row below its room."""
    systems = [card for card in catalogue if not card.baseline]
    done = sum(card.state == "done" for card in systems)
    parts = [
        "---\nhide: [toc]\n---",  # the tables want the width
        "# Methods",
        NOTE,
        f"The catalogue has {len(systems)} published systems and {len(catalogue) - len(systems)} baselines. "
        f"{done} systems are done.",
        table(("state", "means"), STATE_MEANINGS.items()),
        f"{_VERDICT} ([what was measured](../results.md#reproductions)).",
    ]
    for room, own in _by_room(catalogue):
        rows = [
            (
                f"[{card.slug}]({card.slug}.md)" if card.state != "open" else card.slug,
                card.state,
                verdicts.get(card.slug, ""),
                escape(card.summary) + (" (baseline)" if card.baseline else ""),
                paper(card, short=True),
            )
            for card in own
        ]
        parts += [f"## {room}", table(("system", "state", "verdict", "what it does", "paper"), rows)]
    return "\n\n".join(parts) + "\n"


def _readme_table(catalogue: Sequence[Card], verdicts: Mapping[str, str]) -> str:
    """How many systems each room has, and how far they are."""
    rows = [
        (
            f"[{room}]({_FOLDER}/index.md#{_anchor(room)})",
            *(str(sum(card.state == state for card in own) or "") for state in STATES),
            *(str(sum(verdicts.get(card.slug) == verdict for card in own) or "") for verdict in VERDICTS),
        )
        for room, own in _by_room(catalogue)
    ]
    baselines = sum(card.baseline for card in catalogue)
    means = "; ".join(f"*{state}*: {meaning}" for state, meaning in STATE_MEANINGS.items())
    return "\n\n".join(
        [
            f"{len(catalogue) - baselines} published systems and {baselines} baselines: "
            f"[the catalogue]({_FOLDER}/index.md) says of each what it does, how it is used and what was measured.",
            table(("", *STATES, *(f"claim {verdict}" for verdict in VERDICTS)), rows),
            f"{means}. *claim*: {_VERDICT.partition(': ')[2]} ([what was measured](docs/results.md#reproductions)).",
        ]
    )


def _reproductions(catalogue: Sequence[Card], root: Path) -> str:
    """What was measured of each system's claim: one table a room."""
    header = ("system", "what is measured", "ours", "baseline", "ratio", "verdict")
    parts = []
    for room, own in _by_room(catalogue):
        rows = [_reproduction(card, found) for card in own if (found := results.find(card, root))]
        if rows:
            parts += [f"### {room}", table(header, rows)]
    return "\n\n".join(parts) or "No reproduction has been recorded yet."


def _reproduction(card: Card, found: results.Result) -> Sequence[str]:
    values = found.values
    caution = f", with [caution](methods/{card.slug}.md#{MEASURED})" if card.caution else ""
    return (
        f"[{card.slug}](methods/{card.slug}.md)" if card.state != "open" else card.slug,
        escape(metric(found)),
        *(escape(figure(values[arm])) for arm in ("ours", "baseline")),
        "" if values["ratio"] is None else results.text(values["ratio"]),
        found.verdict + caution,
    )


def _by_room(catalogue: Sequence[Card]) -> Iterator[tuple[str, list[Card]]]:
    """The title of each room that has a card, and its cards."""
    for room in ROOMS:
        if own := [card for card in catalogue if card.room == room]:
            yield _ROOM_TITLES[room], own


def _anchor(heading: str) -> str:
    """Of a heading of words and commas, on GitHub and in the site."""
    return heading.lower().replace(",", "").replace(" ", "-")


def _recorded(path: Path, what: str) -> str:
    """The table of a result file that lists records under the key `what`, and a line that says what they are."""
    if not path.is_file():
        return f"No {what} have been recorded yet."
    values = _load(path, "what", what, *_PROVENANCE)
    return f"{_records_table(path, values[what])}\n\n{escape(values['what'])}. {_where(values)}"


def _speed(paths: Sequence[Path]) -> str:
    parts = []
    for path in paths:
        values = _load(path, "name", "rows", "targets", *_PROVENANCE)
        targets = f"Targets: {results.text(values['targets'])}. " if values["targets"] else ""
        parts += [
            f"### {escape(values['name'])}",
            _records_table(path, values["rows"]),
            escape(targets) + _where(values),
        ]
    return "\n\n".join(parts) or "No benchmark has been recorded yet."


def _registry(name: str) -> str:
    """The table of a registry of the catalogue, or of a mapping from names to things with a line of `help`."""
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, Registry):
        return _members(found)
    entries: Mapping[str, Any] = found
    aliased = any(hasattr(entry, "names") for entry in entries.values())
    rows = [
        (
            f"`{key}`",
            *([", ".join(f"`{alias}`" for alias in entry.names)] if aliased else []),
            escape(entry.help),
        )
        for key, entry in entries.items()
    ]
    header = (attribute.lower().removesuffix("s"), *(["as"] if aliased else []), "what it is")
    return table(header, rows)


def _members(registry: Registry[Any]) -> str:
    """What tokenry has of a kind: name, what it is, and the page of the card that answers for it."""
    members = [(entry, entry.card) for entry in catalogued(registry.kind).values() if entry.card is not None]
    differ = len({card.trained for _, card in members}) > 1
    rows = [
        (
            ", ".join(f"`{name}`" for name in (entry.name, *entry.aliases)),
            escape(entry.summary) + (" (the default)" if entry.default else ""),
            *([("yes" if card.trained else "")] if differ else []),
            f"[{escape(card.name)}](methods/{card.slug}.md)",
        )
        for entry, card in members
    ]
    return table((registry.what, "what it is", *(["needs training"] if differ else []), "card"), rows)


def _where(values: dict[str, Any]) -> str:
    return escape(f"{'; '.join(results.text(values[key]) for key in _PROVENANCE)}.")


def _records_table(path: Path, records: object) -> str:
    if not (isinstance(records, list) and records and all(isinstance(record, dict) for record in records)):
        raise TokenryError(f"{path} has no list of objects to make a table of.")
    return records_table(records)


def _load(path: Path, *keys: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenryError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        raise TokenryError(f"{path} is no object with {', '.join(keys)}")
    return values


def _between_markers(text: str, name: str, content: str, path: Path) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise TokenryError(f"{path} needs the lines {begin} and {end}, between which its table is generated.")
    return f"{before}{begin}\n{content}\n{end}{after}"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def main() -> None:
    """Write what is generated into the checkout that tokenry runs from."""
    root = results.checkout()
    if root is None:
        raise SystemExit("tokenry runs from an installed wheel: the documentation is generated in a checkout")
    changed = write(root)
    print("\n".join(map(str, changed)) if changed else "everything generated is up to date")


if __name__ == "__main__":
    main()
