"""Commands about bundles and about the machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from counterpoint.engine import doctor as machine
from counterpoint.engine.bundle import default_bundle_path, describe, load_bundle, shipped_bundles
from counterpoint.engine.cli.common import config_of, print_line, wants_json
from counterpoint.engine.golden import verify_bundle


def _bundle_of(args: argparse.Namespace) -> Path:
    given = getattr(args, "path", None) or args.bundle
    return Path(given) if given else default_bundle_path()


def list_(args: argparse.Namespace) -> int:
    for path in shipped_bundles():
        if wants_json(args):
            print_line(json.dumps({"id": path.name, "path": str(path)}))
        else:
            print_line(f"{path.name}\t{path}")
    return 0


def path_(args: argparse.Namespace) -> int:
    path = str(_bundle_of(args))
    print_line(json.dumps({"path": path}) if args.json else path)
    return 0


def inspect(args: argparse.Namespace) -> int:
    document = describe(load_bundle(_bundle_of(args)))
    if args.json:
        print_line(json.dumps(document, ensure_ascii=False))
        return 0
    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key in ("id", "path", "digest", "created", "licence_notice", "missing_policy"):
        table.add_row(key, str(document[key]))
    table.add_row("size", f"{document['bytes'] / 1e6:.1f} MB")
    for head, labels in document["heads"].items():
        table.add_row(f"head {head}", ", ".join(labels))
    for name, number in document["numbers"].items():
        table.add_row(f"number {name}", f"{number['low']:g} to {number['high']:g} in training")
    for role, graph in document["graphs"].items():
        table.add_row(
            f"graph {role}",
            f"{graph['precision']} {graph['bytes'] / 1e6:.2f} MB  "
            f"{', '.join(graph['inputs'])} → {', '.join(graph['outputs'])}",
        )
    shown = {k: m for k, m in document["metrics"].items() if not k.startswith("subset_")}
    for name, metric in shown.items():
        table.add_row(f"metric {name}", f"{metric['value']:.4g}  ({metric['split']})")
    if hidden := len(document["metrics"]) - len(shown):
        table.add_row("", f"and {hidden} more by subset of modalities: --json, or MODEL_CARD.md")
    console.print(table)
    return 0


def verify(args: argparse.Namespace) -> int:
    path = _bundle_of(args)
    verified = verify_bundle(path, args.device or "auto")
    bundle = verified.bundle
    if args.json:
        graphs = [result.role for result in verified.results]
        print_line(json.dumps({"path": str(path), "digest": bundle.digest, "graphs": graphs}))
    else:
        print_line(
            f"{bundle.manifest.id} {bundle.digest[:12]}: "
            f"{len(bundle.manifest.files)} files unchanged, "
            f"{len(verified.results)} graphs give their golden outputs on {verified.device}"
        )
    return 0


def doctor(args: argparse.Namespace) -> int:
    config = config_of(args)
    bundle = Path(config.engine.bundle) if config.engine.bundle else None
    worst = 0
    marks = {"ok": "✓", "note": "·", "fail": "✗"}
    for check in machine.examine(bundle, config.engine.device):
        if check.status == "fail":
            worst = 3
        if args.json:
            print_line(json.dumps(check.to_dict(), ensure_ascii=False))
        else:
            print_line(f"{marks[check.status]} {check.name}: {check.detail}")
            if check.remedy:
                print_line(f"    → {check.remedy}")
    return worst
