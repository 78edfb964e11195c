"""Bundles: the directories that the trainer writes and the engine runs.

    manifest.json                             everything about the rest (`manifest`)
    models/<role>/model.<precision>.onnx      one graph for each role (`graphs`)
    text/tokenizer.json
    golden/<role>.npz                         recorded inputs and outputs of each graph (`golden`)
    MODEL_CARD.md

A bundle is complete and unchanged, or it is not loaded: every file is in the manifest with its
size and hash, and no other file is there. The manifest's own hash is the bundle's digest, which
every prediction carries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from counterpoint.engine.manifest import (
    MANIFEST_FILE,
    MASKS,
    TOKENIZER_FILE,
    BundleError,
    FileEntry,
    Manifest,
    format_manifest,
)
from counterpoint.engine.manifest_reader import is_inner_path, parse_manifest
from counterpoint.engine.strict import encode

_MANIFEST_BYTES_MAX: Final = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose manifest and files were checked.

    Fields:
        root: its directory.
        manifest: what it says of itself.
        digest: SHA-256 of ``manifest.json`` in hex; people are shown its first 12 digits.
    """

    root: Path
    manifest: Manifest
    digest: str

    def graph_path(self, role: str) -> Path:
        """The ONNX file of a role."""
        return self.root / self.manifest.graphs[role].file

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, as the ``tokenizers`` library reads it."""
        return self.root / TOKENIZER_FILE

    def width(self, role: str, tensor: str) -> int:
        """Last dimension of an input of a role's graph.

        Raises:
            ValueError: no such input, or its last dimension is not fixed.
        """
        for spec in self.manifest.graphs[role].inputs:
            if spec.name == tensor and spec.shape and isinstance(spec.shape[-1], int):
                return spec.shape[-1]
        raise ValueError(f"graph {role!r} has no input {tensor!r} of a fixed width")

    def temperature(self, head: str, mask: str) -> float:
        """Temperature of a head where the modalities of ``mask`` (`MASKS`) are present.

        Raises:
            ValueError: no such head, or no such mask.
        """
        by_mask = self.manifest.temperatures.get(head)
        if by_mask is None:
            raise ValueError(f"no head {head!r}; there are {', '.join(self.manifest.heads)}")
        if mask not in by_mask:
            raise ValueError(f"no mask {mask!r}; there are {', '.join(MASKS)}")
        return by_mask[mask]

    def shares(self, head: str, mask: str) -> tuple[float, ...] | None:
        """Mean probabilities of a head where the modalities of ``mask`` are present, on the data
        that it is calibrated on; None where the bundle does not say."""
        return self.manifest.shares.get(head, {}).get(mask)

    def read_bytes(self, path: str) -> bytes:
        """A file of the bundle, checked against the manifest as it is read.

        Raises:
            BundleError: it cannot be read, or is not what the manifest says.
        """
        data = _read(self.root, path)
        entry = self.manifest.files[path]
        _compare(self.root, path, entry, FileEntry(sha256=_sha256(data), bytes=len(data)))
        return data

    def __repr__(self) -> str:
        return f"Bundle({self.manifest.id!r}, {self.digest[:12]}, {str(self.root)!r})"


def load_bundle(path: Path | str, *, verify: bool = True, engine: str | None = None) -> Bundle:
    """Open the bundle in the directory ``path``.

    Args:
        path: its directory.
        verify: hash every file. Without, only names and sizes are compared here; a device still
            hashes each model as it reads it.
        engine: version of the engine that wants to run it; by default this one.

    Raises:
        BundleError: there is none, or it is incomplete, changed, or for another engine.
    """
    root = Path(path)
    if not (root / MANIFEST_FILE).is_file():
        raise BundleError(
            f"no bundle at {root}: there is no {MANIFEST_FILE}; give the directory of a bundle"
        )
    data = _read(root, MANIFEST_FILE)
    if len(data) > _MANIFEST_BYTES_MAX:
        raise BundleError(f"{root / MANIFEST_FILE}: longer than {_MANIFEST_BYTES_MAX} bytes")
    try:
        manifest = parse_manifest(data, engine=engine)
    except BundleError as error:
        raise BundleError(f"bundle {root}: {error}") from error
    bundle = Bundle(root=root, manifest=manifest, digest=_sha256(data))
    _check_files(bundle, verify=verify)
    return bundle


def bundles_path() -> Path:
    """The directory of the bundles that are shipped with the engine."""
    return Path(__file__).parent / "bundles"


def default_bundle_path() -> Path:
    """The bundle that is used where none is named."""
    return bundles_path() / "affect"


def shipped_bundles() -> list[Path]:
    """Directories of the bundles that are shipped with the engine, by name."""
    return sorted(path.parent for path in bundles_path().glob(f"*/{MANIFEST_FILE}"))


def write_bundle(
    directory: Path | str,
    manifest: Manifest,
    *,
    files: Mapping[str, bytes | Path],
    replace: bool = False,
) -> Bundle:
    """Write a bundle, check it as `load_bundle` does, and only then give it its name.

    It is built in a temporary directory beside ``directory``, so nobody ever sees half a bundle.
    With ``replace`` the old one is moved aside first: for an instant there is none.

    Args:
        directory: where it shall be; its parents are made.
        manifest: with ``files`` left empty, which is filled in here.
        files: content (or the file to copy) of every file but the manifest, by path.
        replace: take the place of a bundle that is there already.

    Raises:
        BundleError: something is there already, or the bundle would not load.
    """
    target = Path(directory)
    if manifest.files:
        raise ValueError("manifest.files must be empty: write_bundle fills it")
    _check_target(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        staged, old = work / "new", work / "old"
        staged.mkdir()
        entries: dict[str, FileEntry] = {}
        for path, content in sorted(files.items()):
            if not is_inner_path(path) or path == MANIFEST_FILE:
                raise BundleError(f"cannot write {path!r}: not a path within the bundle")
            data = content if isinstance(content, bytes) else content.read_bytes()
            _write(staged / path, data)
            entries[path] = FileEntry(sha256=_sha256(data), bytes=len(data))
        _write(
            staged / MANIFEST_FILE, format_manifest(dataclasses.replace(manifest, files=entries))
        )
        bundle = load_bundle(staged)
        _check_target(target, replace=replace)
        if target.exists():
            target.rename(old)
        try:
            staged.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise BundleError(f"cannot write bundle {target}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dataclasses.replace(bundle, root=target)


def describe(bundle: Bundle) -> dict[str, Any]:
    """What ``counterpoint bundle inspect`` shows of a bundle, as a JSON document."""
    manifest = bundle.manifest
    return {
        "id": manifest.id,
        "path": str(bundle.root),
        "digest": bundle.digest,
        "created": manifest.created,
        "engine_min_version": manifest.engine_min_version,
        "licence_notice": manifest.licence_notice,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "hop_ns": manifest.hop_ns,
        "heads": {name: list(head.labels) for name, head in manifest.heads.items()},
        "numbers": encode(manifest.numbers),
        "modalities": encode(manifest.modalities),
        "missing_policy": manifest.missing_policy,
        "temperatures": encode(manifest.temperatures),
        "shares": encode(manifest.shares),
        "graphs": {
            role: {
                "file": spec.file,
                "precision": spec.precision,
                "bytes": manifest.files[spec.file].bytes,
                "inputs": [str(tensor) for tensor in spec.inputs],
                "outputs": [str(tensor) for tensor in spec.outputs],
                "tolerance": encode(spec.tolerance),
            }
            for role, spec in manifest.graphs.items()
        },
        "metrics": encode(manifest.metrics),
    }


def _check_target(target: Path, *, replace: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    if not replace:
        raise BundleError(f"{target} is there already; remove it or ask to replace it")
    # Never take away what is not a bundle, however the path was mistyped.
    if target.is_symlink() or not (target / MANIFEST_FILE).is_file():
        raise BundleError(f"{target} is not a bundle, so it is not replaced; choose another path")


def _check_files(bundle: Bundle, *, verify: bool) -> None:
    root, expected = bundle.root, bundle.manifest.files
    found = set(_walk(root)) - {MANIFEST_FILE}
    if unlisted := sorted(found - set(expected)):
        raise BundleError(
            f"bundle {root}: {unlisted[0]} is there but not listed in {MANIFEST_FILE}; "
            "remove it or take the bundle anew"
        )
    for path, entry in expected.items():
        if path not in found:
            raise BundleError(
                f"bundle {root}: {path} is listed in {MANIFEST_FILE} but not there; "
                "take the bundle anew"
            )
        if not (root / path).resolve().is_relative_to(root.resolve()):
            raise BundleError(f"bundle {root}: {path} leads out of the bundle")
        if verify:
            bundle.read_bytes(path)
        else:
            size = _stat_bytes(root, path)
            _compare(root, path, entry, FileEntry(sha256=entry.sha256, bytes=size))


def _walk(root: Path) -> list[str]:
    """Every file below ``root`` by its path; a link to a directory counts as a file."""
    paths: list[str] = []
    for directory, names, files in os.walk(root):
        here = Path(directory)
        links = [name for name in names if (here / name).is_symlink()]
        paths += [(here / name).relative_to(root).as_posix() for name in (*files, *links)]
    return paths


def _compare(root: Path, path: str, expected: FileEntry, found: FileEntry) -> None:
    if found != expected:
        raise BundleError(
            f"bundle {root}: {path} is not the file that {MANIFEST_FILE} lists: "
            f"expected sha256 {expected.sha256} ({expected.bytes} bytes), "
            f"found {found.sha256} ({found.bytes} bytes); take the bundle anew"
        )


def _stat_bytes(root: Path, path: str) -> int:
    try:
        return (root / path).stat().st_size
    except OSError as error:
        raise BundleError(f"bundle {root}: {path} cannot be read: {error}") from error


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {root}: {path} cannot be read: {error}") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
