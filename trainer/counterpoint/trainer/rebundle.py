"""A bundle made from another one: some graphs, golden vectors or temperatures in its place."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from pathlib import Path

from counterpoint.engine.bundle import Bundle, write_bundle
from counterpoint.engine.manifest import MODEL_CARD_FILE, Manifest


def rebundle(
    bundle: Bundle,
    target: Path,
    manifest: Manifest,
    *,
    card: str,
    files: Mapping[str, bytes | Path] | None = None,
) -> Bundle:
    """Write ``manifest`` with the files it needs: those given, the others from ``bundle``.

    Args:
        target: directory of the new bundle; a bundle that is there is replaced.
        manifest: what changed is changed in it; its ``files`` and ``created`` do not count.
        card: what to append to the model card; may be empty.
        files: content by path.

    Raises:
        BundleError: the new bundle would not load, or the old one is damaged.
    """
    given = dict(files or {})
    named = {spec.file for spec in manifest.graphs.values()}
    named |= {spec.golden for spec in manifest.graphs.values()}
    replaced = {spec.file for spec in bundle.manifest.graphs.values()}
    replaced |= {spec.golden for spec in bundle.manifest.graphs.values()}
    kept = {path for path in bundle.manifest.files if path in named or path not in replaced}
    content: dict[str, bytes | Path] = {path: bundle.read_bytes(path) for path in sorted(kept)}
    content.update(given)
    if card:
        old = bundle.read_bytes(MODEL_CARD_FILE).decode()
        content[MODEL_CARD_FILE] = (old.rstrip("\n") + "\n\n" + card.strip("\n") + "\n").encode()
    today = dt.datetime.now(dt.UTC).date().isoformat()
    fresh = dataclasses.replace(manifest, files={}, created=today)
    return write_bundle(target, fresh, files=content, replace=True)
