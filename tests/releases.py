"""Tests on other releases of transformers than the locked one: ``python -m tests.releases oldest 5.22.2``.

A release is put beside the environment, not into it (``pip install --no-deps --target .upstream/RELEASE``), and goes
first on the path. Without arguments the oldest, the locked and the newest release run. The table is printed and kept in
docs/results/upstream.json, from which the documentation's is made; with ``--short`` a subset runs and nothing is kept.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import typer
from packaging.version import Version
from rich.console import Console
from rich.table import Table

from benchmarks.common import provenance
from tokenry.hosts.upstream import PROVEN

ROOT = Path(__file__).parents[1]
OVERLAYS = ROOT / ".upstream"
RESULT = ROOT / "docs/results/upstream.json"
LOCKED = metadata.version("transformers")

PARTS = {
    "names": [
        "tests/hosts/test_upstream.py",
        "tests/hosts/test_checkpoints.py",
        "tests/hosts/test_wrappers.py",
    ],
    "hosts": ["tests/hosts", "tests/laws/restrictions", "tests/laws/connectors"],
    "decoding": ["tests/predict"],
    "networks": ["tests/models", "tests/laws/networks"],
    "main job": [
        "tests/reduce",
        "tests/bench/reducers/test_compare.py",
        "tests/bench/reducers/test_running.py",
        "tests/cli/test_commands.py",
        "tests/docs/test_readme.py",
    ],
}
"""What is run: everything that touches a model of transformers while it runs, and what the README shows."""
SHORT = {"names": PARTS["names"], "hosts": ["tests/hosts/test_sessions.py", "tests/predict/test_generate.py"]}


def newest() -> str:
    """The newest release that the registry has; pre-releases do not count."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "index",
        "versions",
        "transformers",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.match(r"transformers \(([\d.]+)\)", done.stdout)
    if found is None:
        raise SystemExit(f"The registry did not say which releases of transformers there are:\n{done.stderr}")
    return found[1]


def overlay(release: str) -> Path | None:
    """The folder to put first on the path for a release; None for the one in the environment."""
    if release == LOCKED:
        return None
    folder = OVERLAYS / release
    if not folder.is_dir():
        OVERLAYS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OVERLAYS) as scratch:
            target = Path(scratch, "packages")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*pip, f"transformers=={release}"], check=True)
            target.rename(folder)
    return folder


def run(release: str, parts: dict[str, list[str]], jobs: int) -> dict[str, Any]:
    """Run tests on a release: per part what passed of what ran, all that failed, and minutes."""
    folder = overlay(release)
    before = [str(folder)] if folder else []
    before += [given] if (given := os.environ.get("PYTHONPATH")) else []
    env = os.environ | {"PYTHONPATH": os.pathsep.join(before), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [
            "-n",
            str(jobs),
            "--dist",
            "worksteal",
            *(path for paths in parts.values() for path in paths),
        ]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    row: dict[str, Any] = {}
    failed = 0
    for part, paths in parts.items():
        names = tuple(path.removesuffix(".py").replace("/", ".") for path in paths)
        own = [case for case in cases if case.attrib["classname"].startswith(names)]
        ran = [case for case in own if case.find("skipped") is None]
        bad = [case for case in ran if case.find("failure") is not None or case.find("error") is not None]
        row[part] = f"{len(ran) - len(bad)} of {len(ran)}"
        failed += len(bad)
    # Not even collected: a release that cannot be imported beside the others.
    failed = failed or int(done.returncode != 0)
    return row | {"failed": failed, "minutes": round((time.monotonic() - started) / 60, 1)}


def main(
    releases: Annotated[
        list[str] | None, typer.Argument(help="Releases, or oldest, locked, newest; all three by default.")
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="A subset of a minute; the table is not kept.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Run the tests of hosts, decoding, networks and the main job on releases of transformers, and print a table."""
    roles = {"oldest": lambda: PROVEN[0], "locked": lambda: LOCKED, "newest": newest}
    chosen: dict[str, list[str]] = {}
    for name in releases or roles:
        chosen.setdefault(roles[name]() if name in roles else name, []).extend(
            [name] if name in roles else []
        )
    rows = [
        {"transformers": release, "role": ", ".join(names)}
        | run(release, SHORT if short else PARTS, jobs)
        | {"date": provenance()["date"]}
        for release, names in chosen.items()
    ]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=130).print(table)
    if not short:
        _keep(rows)
    if any(row["failed"] for row in rows):
        raise SystemExit(1)


def _keep(rows: list[dict[str, Any]]) -> None:
    """Put rows into the recorded table, in the place of older ones of their releases; failures are kept as well."""
    known = json.loads(RESULT.read_text(encoding="utf-8"))["releases"] if RESULT.is_file() else []
    latest = {row["transformers"]: row for row in [*known, *rows]}
    values = {
        "what": "Tests that passed on each release of transformers, beside the locked versions of everything else",
        "releases": sorted(latest.values(), key=lambda row: Version(row["transformers"])),
        **{key: value for key, value in provenance().items() if key in ("machine", "versions", "date")},
    }
    scratch = RESULT.with_suffix(".tmp")
    scratch.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    scratch.replace(RESULT)


if __name__ == "__main__":
    typer.run(main)
