"""Bundles: written whole, loaded whole and unchanged, or refused with what and where."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.engine.bundle import (
    Bundle,
    default_bundle_path,
    describe,
    load_bundle,
    write_bundle,
)
from counterpoint.engine.device import Device, open_device
from counterpoint.engine.golden import check_golden, compare_golden, golden_bytes
from counterpoint.engine.graphs import ROLES
from counterpoint.engine.manifest import (
    MANIFEST_FILE,
    MASKS,
    BundleError,
    format_manifest,
)
from counterpoint.engine.manifest_reader import engine_version, parse_manifest
from counterpoint.streams.errors import UsageError
from tests.support.bundles import tiny_bundle, tiny_parts

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "bundle.v1.json"

Document = dict[str, Any]
Change = Callable[[Document], None]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that no test changes."""
    return tiny_bundle(tmp_path_factory.mktemp("pristine") / "tiny")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that a test may damage."""
    return tiny_bundle(tmp_path / "tiny")


@pytest.fixture(scope="module")
def device() -> Device:
    return open_device("cpu")


def manifest_document() -> Document:
    manifest, files = tiny_parts()
    document: Document = json.loads(format_manifest(manifest))
    document["files"] = {
        path: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for path, data in files.items()
    }
    return document


def refusal(document: Document | bytes, **arguments: str) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(BundleError) as caught:
        parse_manifest(data, **arguments)
    return str(caught.value)


def put(path: str, value: Any) -> Change:
    """A change that sets the key at ``path`` (steps separated by ``/``)."""

    def change(document: Document) -> None:
        *steps, last = path.split("/")
        node: Any = document
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node[step]
        node[int(last) if isinstance(node, list) else last] = value

    return change


# --- a good bundle ---------------------------------------------------------------------------


def test_what_was_written_is_what_is_loaded(pristine: Bundle) -> None:
    loaded = load_bundle(pristine.root)
    assert loaded == pristine
    manifest, files = tiny_parts()
    assert dataclasses.replace(loaded.manifest, files={}) == manifest
    assert set(loaded.manifest.files) == set(files)
    raw = (pristine.root / MANIFEST_FILE).read_bytes()
    assert loaded.digest == hashlib.sha256(raw).hexdigest()
    assert format_manifest(parse_manifest(raw)) == raw


def test_the_same_parts_give_the_same_digest_and_another_seed_another(tmp_path: Path) -> None:
    digests = [tiny_bundle(tmp_path / str(i), seed=i // 2).digest for i in range(3)]
    assert digests[0] == digests[1] != digests[2]


def test_the_published_schema_describes_the_manifest(pristine: Bundle) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads((pristine.root / MANIFEST_FILE).read_text())
    assert list(validator.iter_errors(document)) == []
    assert list(validator.iter_errors({**document, "extra": 1}))


def test_what_may_be_left_out_is_written_only_where_it_says_something(pristine: Bundle) -> None:
    manifest = pristine.manifest
    assert manifest.audio.voice_threshold == 0.5
    assert b"voice_threshold" not in format_manifest(manifest)
    audio = dataclasses.replace(manifest.audio, voice_threshold=0.25)
    modalities = dataclasses.replace(manifest.modalities, audio=audio)
    shares = {"sentiment": {"001": (0.2, 0.5, 0.3)}}
    assert b"shares" not in format_manifest(manifest)
    other = dataclasses.replace(manifest, modalities=modalities, shares=shares)
    assert b'"voice_threshold": 0.25' in format_manifest(other)
    assert parse_manifest(format_manifest(other)) == other
    document = json.loads(format_manifest(other))
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert list(schema.iter_errors(document)) == []


def test_a_bundle_is_described_by_a_json_document(pristine: Bundle) -> None:
    description = describe(pristine)
    assert json.loads(json.dumps(description)) == description
    assert description["id"] == "tiny"
    assert description["digest"] == pristine.digest
    assert set(description["graphs"]) == set(ROLES)
    for role, graph in description["graphs"].items():
        assert graph["bytes"] == pristine.graph_path(role).stat().st_size
    assert description["graphs"]["vision"]["inputs"] == ["faces float32 (N,1,48,48)"]
    assert description["heads"]["sentiment"] == ["negative", "neutral", "positive"]
    assert description["licence_notice"] == pristine.manifest.licence_notice
    assert description["metrics"]["accuracy"]["kind"] == "validation"


def test_a_temperature_is_found_by_head_and_mask(pristine: Bundle) -> None:
    for head, by_mask in pristine.manifest.temperatures.items():
        assert [pristine.temperature(head, mask) for mask in MASKS] == list(by_mask.values())
    with pytest.raises(ValueError, match=r"no mask '000'; there are 001, "):
        pristine.temperature("emotion", "000")
    with pytest.raises(ValueError, match=r"no head 'mood'; there are sentiment, emotion"):
        pristine.temperature("mood", "111")


def test_the_width_of_an_input_is_its_last_dimension(pristine: Bundle) -> None:
    widths = [pristine.width("fusion", name) for name in ("vision", "audio", "text")]
    assert widths == [128, 96, 416]
    for role, tensor in (("fusion", "smell"), ("text", "input_ids"), ("vad", "sr")):
        with pytest.raises(ValueError, match=f"graph '{role}' has no input '{tensor}'"):
            pristine.width(role, tensor)


def test_a_loaded_manifest_cannot_be_changed(pristine: Bundle) -> None:
    manifest: Any = load_bundle(pristine.root).manifest
    with pytest.raises(TypeError):
        manifest.temperatures["emotion"]["111"] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.hop_ns = 1


def test_the_default_bundle_lies_within_the_package() -> None:
    assert default_bundle_path().parts[-4:] == ("counterpoint", "engine", "bundles", "affect")


# --- damage on disk --------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_in_any_file_is_found_and_named(
    pristine: Bundle, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(pristine.manifest.files)))
    file = pristine.root / path
    original = file.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(changed)
        with pytest.raises(BundleError) as caught:
            load_bundle(pristine.root)
        # Sizes alone do not tell, so a quick look does not see it; reading the file does.
        quick = load_bundle(pristine.root, verify=False)
        with pytest.raises(BundleError, match="expected sha256"):
            quick.read_bytes(path)
    finally:
        file.write_bytes(original)
    message = str(caught.value)
    assert path in message
    assert hashlib.sha256(original).hexdigest() in message
    assert hashlib.sha256(changed).hexdigest() in message
    assert "\n" not in message


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_in_the_manifest_is_refused_or_changes_the_digest(
    pristine: Bundle, data: st.DataObject
) -> None:
    file = pristine.root / MANIFEST_FILE
    original = file.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(changed)
        try:
            digest = load_bundle(pristine.root).digest
        except BundleError:
            digest = ""
    finally:
        file.write_bytes(original)
    assert digest != pristine.digest


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("path", sorted(tiny_parts()[1]))
def test_a_missing_file_is_named(bundle: Bundle, path: str, verify: bool) -> None:
    (bundle.root / path).unlink()
    with pytest.raises(BundleError, match=f"{path} is listed in manifest.json but not there"):
        load_bundle(bundle.root, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_found_by_its_size(bundle: Bundle, verify: bool) -> None:
    file = bundle.graph_path("fusion")
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(BundleError, match=rf"\({size} bytes\), found .*\({size - 1} bytes\)"):
        load_bundle(bundle.root, verify=verify)


@pytest.mark.parametrize("path", ["README", "models/vision/model.int8.onnx", "a/b/c"])
def test_a_file_that_is_not_listed_is_refused(bundle: Bundle, path: str) -> None:
    extra = bundle.root / path
    extra.parent.mkdir(parents=True, exist_ok=True)
    extra.write_bytes(b"")
    with pytest.raises(BundleError, match=f"{path} is there but not listed"):
        load_bundle(bundle.root)


def test_a_link_out_of_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    inside = bundle.graph_path("vision")
    outside = tmp_path / "elsewhere.onnx"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(BundleError, match=r"models/vision/model\.fp32\.onnx leads out of"):
        load_bundle(bundle.root)


def test_a_linked_directory_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    golden = bundle.root / "golden"
    golden.rename(tmp_path / "golden")
    golden.symlink_to(tmp_path / "golden", target_is_directory=True)
    with pytest.raises(BundleError, match="golden is there but not listed"):
        load_bundle(bundle.root)


def test_a_directory_in_the_place_of_a_file_is_refused(bundle: Bundle) -> None:
    bundle.tokenizer_path.unlink()
    bundle.tokenizer_path.mkdir()
    with pytest.raises(BundleError, match=r"text/tokenizer\.json is listed .* but not there"):
        load_bundle(bundle.root)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_no_bundle_is_the_error_says_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "none"
    make(path)
    with pytest.raises(UsageError, match=r"no bundle at .*none: there is no manifest\.json"):
        load_bundle(path)


# --- a manifest that is wrong ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("schema_version", 2), "schema_version: the bundle has 2, this engine reads 1"),
        (put("schema_version", "1"), 'schema_version: the bundle has "1", this engine reads 1'),
        (put("schema_version", True), "schema_version: the bundle has true, this engine reads 1"),
        (put("engine_min_version", "99.1"), "the bundle needs 99.1 or newer, this engine is"),
        (put("engine_min_version", "v1"), "engine_min_version: must be like 1.2.3, not 'v1'"),
        (put("id", "../x"), "id: must be lower-case letters"),
        (put("created", "yesterday"), "created: must be an ISO 8601 date"),
        (put("extra", 1), "extra: unknown key; known here: id, created"),
        (put("hop_ns", 250e6), "hop_ns: must be an integer, not a number"),
        (put("hop_ns", True), "hop_ns: must be an integer, not a boolean"),
        (put("hop_ns", 0), "hop_ns: must be positive, not 0"),
        (
            put("hop_ns", 125_000_000),
            "modalities.video.sample_period_ns: must be hop_ns (125000000), not 250000000",
        ),
        (
            put("modalities/audio/context_ns", 3_100_000_000),
            "modalities.audio.context_ns: does not fit the grid",
        ),
        (put("licence_notice", None), "licence_notice: must be a string, not null"),
        (put("modalities/smell", {}), "modalities.smell: unknown key"),
        (put("modalities/video/std", 0), "modalities.video.std must be positive, not 0"),
        (put("modalities/video/std", "1"), "modalities.video.std: must be a number, not a string"),
        (put("modalities/audio/mean", [0.0]), "modalities.audio.mean must have 64 values"),
        (put("modalities/audio/mean/3", "0"), "modalities.audio.mean[3]: must be a number"),
        (put("modalities/audio/steps_per_hop", 7), "modalities.audio.steps_per_hop: does not fit"),
        (
            put("modalities/audio/voice_threshold", 1.5),
            "modalities.audio.voice_threshold must lie in [0, 1], not 1.5",
        ),
        (put("modalities/audio/mel_bins", 0), "modalities.audio.mel_bins must be positive"),
        (put("modalities/chat", []), "modalities.chat: must be an object, not a list"),
        (put("graphs/smell", {}), "graphs.smell.file: missing key"),
        (put("graphs/vision/inputs/0/shape", 4), "graphs.vision.inputs[0].shape: must be a list"),
        (
            put("graphs/vision/inputs/0/shape/1", 1.5),
            "graphs.vision.inputs[0].shape[1]: must be an integer or a string, not a number",
        ),
        (
            put("graphs/vision/inputs/0/shape/3", 64),
            "graphs.vision.inputs[0]: must be 'faces float32 (N,1,48,48)' to fit",
        ),
        (
            put("graphs/vision/inputs/0/name", "face"),
            "graphs.vision.inputs: must be tensors faces; found face",
        ),
        (
            put("graphs/fusion/inputs/0/dtype", "int64"),
            "found 'vision int64 (N,8,128)'",
        ),
        (
            put("graphs/fusion/inputs/0/dtype", "float64"),
            "graphs.fusion.inputs[0].dtype: must be one of float32, int64, not 'float64'",
        ),
        (
            put("graphs/text/outputs", []),
            "graphs.text.outputs: must be one tensor 'embedding'",
        ),
        (put("graphs/text/precision", "int4"), "graphs.text.precision: must be one of fp32"),
        (put("graphs/text/tolerance/atol", -1), "graphs.text.tolerance: atol and rtol must not"),
        (put("graphs/text/file", "x.onnx"), "graphs.text.file: 'x.onnx' is not among files"),
        (put("graphs/text/golden", "x.npz"), "graphs.text.golden: 'x.npz' is not among files"),
        (put("heads/mood", {"labels": ["a", "b"]}), "temperatures.mood: missing key"),
        (put("heads/emotion/labels", ["a", "b"]), "graphs.fusion.outputs["),
        (put("heads/emotion/labels/0", "happy"), "heads.emotion: labels must be two or more"),
        (put("temperatures/emotion/101", 0), "temperatures.emotion.101: must be positive"),
        (put("temperatures/emotion/000", 1), "temperatures.emotion.000: unknown key"),
        (put("temperatures/mood", {}), "temperatures.mood: unknown key"),
        (put("shares", {"mood": {}}), "shares.mood: is no head"),
        (put("shares", {"sentiment": {"000": [0.5, 0.5, 0]}}), "shares.sentiment.000: unknown key"),
        (put("shares", {"sentiment": {"001": [0.5, 0.5]}}), "shares.sentiment.001: must have 3"),
        (put("shares", {"sentiment": {"001": [0.5, 0.5, 0.5]}}), "must not be negative, and sum"),
        (put("shares", {"sentiment": {"001": [1.5, -0.5, 0]}}), "must not be negative, and sum"),
        (put("metrics/f1", {"value": 1.0}), "metrics.f1.split: missing key"),
        (put("files", 3), "files: must be an object, not an integer"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_a_wrong_value_is_named_by_its_path(change: Change, message: str) -> None:
    document = manifest_document()
    change(document)
    text = refusal(document)
    assert text.startswith("manifest.json: ")
    assert message in text
    assert "\n" not in text


def every_key(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all keys that must be there; what was measured is free."""
    if isinstance(node, list):
        return [key for i, item in enumerate(node) for key in every_key(item, (*path, i))]
    if not isinstance(node, dict):
        return []
    found: list[tuple[str | int, ...]] = []
    for key, value in node.items():
        here = (*path, key)
        if path != ("metrics",):
            found.append(here)
        found += every_key(value, here)
    return found


@pytest.mark.parametrize(
    "path", every_key(manifest_document()), ids=lambda path: ".".join(map(str, path))
)
def test_no_key_may_be_missing(path: tuple[str | int, ...]) -> None:
    document = manifest_document()
    node: Any = document
    for step in path[:-1]:
        node = node[step]
    del node[path[-1]]
    # A file, or a head, is missed from where it is needed.
    expected = str(path[-1]) if path[0] in ("files", "heads") else f"{path[-1]}: "
    assert expected in refusal(document)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/", "", "a\\b", "c:x", "manifest.json"],
)
def test_a_path_that_leaves_the_bundle_is_refused(path: str, tmp_path: Path) -> None:
    document = manifest_document()
    document["files"][path] = {"sha256": "0" * 64, "bytes": 0}
    assert f"files.{path}: must be a relative path within the bundle" in refusal(document)
    manifest, files = tiny_parts()
    with pytest.raises(BundleError, match="not a path within the bundle"):
        write_bundle(tmp_path / "b", manifest, files={**files, path: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JSON document"),
        (b"\xff", "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b"[]", "must be a JSON object"),
        (b'{"schema_version": 1, "schema_version": 1}', "key 'schema_version' appears twice"),
        (b'{"schema_version": NaN}', "NaN is not a JSON number"),
        (b"{}", "schema_version: the bundle has null, this engine reads 1"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_a_number_too_large_is_not_taken_for_infinity() -> None:
    text = json.dumps(manifest_document()).replace('"value": 0.5', '"value": 1e999')
    assert "metrics.accuracy.value: must be finite, not inf" in refusal(text.encode())


@pytest.mark.parametrize(
    ("needs", "engine", "runs"),
    [
        ("0.1.0", "0.1", True),
        ("0.1", "0.1.0", True),
        ("0.9", "0.10", True),
        ("0.10", "0.9", False),
        ("1", "0.99.99", False),
        ("0.2.0", "0.2.0.dev3", True),
    ],
)
def test_versions_are_compared_by_number(needs: str, engine: str, runs: bool) -> None:
    document = manifest_document()
    document["engine_min_version"] = needs
    if runs:
        assert parse_manifest(json.dumps(document).encode(), engine=engine).id == "tiny"
    else:
        message = refusal(document, engine=engine)
        assert f"the bundle needs {needs} or newer, this engine is {engine}" in message


def test_this_engine_runs_its_own_bundles() -> None:
    document = manifest_document()
    document["engine_min_version"] = engine_version()
    assert parse_manifest(json.dumps(document).encode()).engine_min_version == engine_version()


# --- writing ---------------------------------------------------------------------------------


def test_a_bundle_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="is there already; remove it or ask to replace it"):
        tiny_bundle(tmp_path / "b", seed=1)
    assert load_bundle(tmp_path / "b") == first
    second = tiny_bundle(tmp_path / "b", seed=1, replace=True)
    assert load_bundle(tmp_path / "b") == second != first
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters").write_text("dear")
    link = tmp_path / "link"
    link.symlink_to(tiny_bundle(tmp_path / "b").root)
    for target in (home, home / "letters", link):
        with pytest.raises(BundleError, match="is not a bundle, so it is not replaced"):
            tiny_bundle(target, replace=True)
    assert (home / "letters").read_text() == "dear"


def test_a_bundle_that_would_not_load_is_never_seen(tmp_path: Path) -> None:
    manifest, files = tiny_parts()
    old = tiny_bundle(tmp_path / "b")
    without = {path: data for path, data in files.items() if path != "golden/vad.npz"}
    with pytest.raises(BundleError, match=r"graphs\.vad\.golden: 'golden/vad\.npz' is not among"):
        write_bundle(tmp_path / "b", manifest, files=without, replace=True)
    with pytest.raises(BundleError, match=r"hop_ns: must be positive"):
        write_bundle(
            tmp_path / "b", dataclasses.replace(manifest, hop_ns=0), files=files, replace=True
        )
    assert load_bundle(tmp_path / "b") == old
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_if_the_new_name_cannot_be_given_the_old_bundle_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tiny_bundle(tmp_path / "b")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match=r"cannot write bundle .*No space left on device"):
        tiny_bundle(tmp_path / "b", seed=1, replace=True)
    assert load_bundle(tmp_path / "b") == old
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_files_are_copied_from_paths_too(tmp_path: Path, pristine: Bundle) -> None:
    manifest, files = tiny_parts()
    paths: dict[str, bytes | Path] = {path: pristine.root / path for path in files}
    copy = write_bundle(tmp_path / "deep" / "er" / "b", manifest, files=paths)
    assert copy.digest == pristine.digest
    paths["text/tokenizer.json"] = tmp_path / "absent"
    with pytest.raises(BundleError, match=r"cannot write bundle .*absent"):
        write_bundle(tmp_path / "c", manifest, files=paths)


def test_a_manifest_with_files_is_not_written(tmp_path: Path, pristine: Bundle) -> None:
    with pytest.raises(ValueError, match="files must be empty"):
        write_bundle(tmp_path / "b", pristine.manifest, files={})


# --- golden outputs --------------------------------------------------------------------------


def with_file(tmp_path: Path, path: str, data: bytes) -> Bundle:
    manifest, files = tiny_parts()
    return write_bundle(tmp_path / "b", manifest, files={**files, path: data})


def golden_arrays(role: str) -> tuple[dict[str, Any], dict[str, Any]]:
    _, files = tiny_parts()
    with np.load(io.BytesIO(files[f"golden/{role}.npz"])) as file:
        arrays = {name: np.array(file[name]) for name in file.files}
    return (
        {name[3:]: array for name, array in arrays.items() if name.startswith("in.")},
        {name[4:]: array for name, array in arrays.items() if name.startswith("out.")},
    )


def test_every_graph_gives_its_golden_outputs(pristine: Bundle, device: Device) -> None:
    results = check_golden(pristine, device)
    assert [result.role for result in results] == list(ROLES)
    for result in results:
        assert result.passed
        assert result.max_abs_difference < 1e-5
        assert result.expected == pytest.approx(result.got, abs=1e-5)


@pytest.mark.parametrize("value", [0.01, np.nan, np.inf])
def test_a_wrong_golden_output_is_named_to_the_element(
    tmp_path: Path, device: Device, value: float
) -> None:
    inputs, outputs = golden_arrays("fusion")
    true = float(outputs["emotion_contributions"][1, 2, 3])
    outputs["emotion_contributions"][1, 2, 3] += value
    bundle = with_file(tmp_path, "golden/fusion.npz", golden_bytes(inputs, outputs))
    results = {result.role: result for result in compare_golden(bundle, device)}
    assert [role for role, result in results.items() if not result.passed] == ["fusion"]
    bad = results["fusion"]
    assert (bad.output, bad.index) == ("emotion_contributions", (1, 2, 3))
    assert bad.got == pytest.approx(true, abs=1e-5)
    assert bad.expected == pytest.approx(true + value, nan_ok=True)
    assert bad.max_abs_difference == (pytest.approx(value, rel=1e-2) if value < 1 else np.inf)
    message = r"graph 'fusion' on device cpu: output 'emotion_contributions' at \[1, 2, 3\] is "
    with pytest.raises(BundleError, match=message):
        check_golden(bundle, device)


def test_a_difference_within_tolerance_passes(tmp_path: Path, device: Device) -> None:
    inputs, outputs = golden_arrays("vision")
    tolerance = tiny_parts()[0].graphs["vision"].tolerance
    outputs["embedding"] += np.float32(0.9 * tolerance.atol)
    bundle = with_file(tmp_path, "golden/vision.npz", golden_bytes(inputs, outputs))
    assert check_golden(bundle, device)[0].max_abs_difference > 0.8 * tolerance.atol


def pickled_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, faces=np.array([{}], dtype=object))
    return buffer.getvalue()


def bare_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def changed_golden(**changes: Any) -> bytes:
    inputs, outputs = golden_arrays("vision")
    for name, array in changes.items():
        if array is None:
            inputs.pop(name, None)
            outputs.pop(name, None)
        elif name in outputs:
            outputs[name] = array
        else:
            inputs[name] = array
    return golden_bytes(inputs, outputs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an npz file"),
        (b"PK\x03\x04nonsense", "not an npz file"),
        (bare_npy(), "not an npz file"),
        (pickled_npz(), "allow_pickle=False"),
        (golden_bytes({}, {}), "vision input: expected tensors faces; got"),
        (changed_golden(embedding=None), "vision output: expected tensors embedding; got"),
        (changed_golden(more=np.zeros(1)), "expected tensors faces; got faces, more"),
        (
            changed_golden(faces=np.zeros((1, 1, 48, 48))),
            "vision input 'faces': expected dtype float32, got float64",
        ),
        (
            changed_golden(faces=np.zeros((1, 1, 48, 48), np.float32)),
            r"vision output 'embedding': \(1, 128\), golden \(4, 128\)",
        ),
    ],
)
def test_golden_data_that_do_not_fit_are_refused(
    tmp_path: Path, device: Device, data: bytes, message: str
) -> None:
    bundle = with_file(tmp_path, "golden/vision.npz", data)
    with pytest.raises(BundleError, match=message):
        compare_golden(bundle, device)


def test_golden_data_changed_after_loading_are_not_trusted(bundle: Bundle, device: Device) -> None:
    shutil.copy(bundle.root / "golden/text.npz", bundle.root / "golden/vision.npz")
    with pytest.raises(BundleError, match=r"golden/vision\.npz is not the file that"):
        compare_golden(bundle, device)
