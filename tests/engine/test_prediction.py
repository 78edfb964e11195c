"""The prediction document: schema, canonical bytes, reading back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from counterpoint.engine.adapt.statement import (
    Adaptation,
    Alarm,
    BaselineSaid,
    DriftSaid,
    PriorUsed,
)
from counterpoint.engine.align import State, Status
from counterpoint.engine.prediction import (
    VOLATILE_KEYS,
    HeadResult,
    ModalityReport,
    NumberResult,
    Prediction,
    PredictionFormatError,
    StageTimes,
    from_json,
    stable_json,
    to_json,
)
from counterpoint.streams.types import Modality
from tests.support.predictions import make_prediction

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schema" / "prediction.v1.json").read_text("utf-8")
)


def document(prediction: Prediction) -> dict[str, Any]:
    value = json.loads(to_json(prediction))
    assert isinstance(value, dict)
    return value


ADAPTED = Adaptation(
    prior={
        "sentiment": PriorUsed(
            base=(0.5, 0.25, 0.25), shares=(0.25, 0.5, 0.25), observations=7, applied=True
        )
    },
    baseline=BaselineSaid(windows=4, of=4, deviations={"sentiment": (-1.0, 0.5, 0.5)}),
    drift=DriftSaid(alarms=(Alarm(signal="video.heard", before=1.0, now=0.25),), total=2),
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
counts = st.integers(0, 10_000)
names = st.text(min_size=1, max_size=8)


@st.composite
def head_results(draw: st.DrawFn) -> HeadResult:
    labels = draw(st.lists(names, min_size=1, max_size=7, unique=True))
    probabilities = draw(
        st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels)).map(tuple)
    )
    return HeadResult(labels=tuple(labels), probabilities=probabilities)


reports = st.builds(
    ModalityReport,
    state=st.sampled_from(State),
    reason=st.none() | st.text(max_size=20),
    coverage=st.floats(0, 1),
    age_ns=st.none() | st.integers(-(10**12), 10**12),
    contributions=st.dictionaries(names, st.lists(finite, max_size=7).map(tuple), max_size=2),
)
shares = st.lists(st.floats(0, 1), min_size=2, max_size=7).map(tuple)
adaptations = st.builds(
    Adaptation,
    prior=st.dictionaries(
        names,
        st.builds(
            PriorUsed, base=shares, shares=shares, observations=counts, applied=st.booleans()
        ),
        max_size=2,
    ),
    baseline=st.none()
    | st.builds(
        BaselineSaid,
        windows=counts,
        of=st.integers(1, 100),
        deviations=st.dictionaries(names, st.lists(finite, max_size=7).map(tuple), max_size=2),
    ),
    drift=st.none()
    | st.builds(
        DriftSaid,
        alarms=st.lists(st.builds(Alarm, signal=names, before=finite, now=finite), max_size=2).map(
            tuple
        ),
        total=counts,
    ),
)
ranges = st.tuples(finite, finite).filter(
    lambda ends: float(f"{ends[0]:.6g}") != float(f"{ends[1]:.6g}")
)
numbers = st.builds(
    lambda value, ends, added: NumberResult(
        value=value,
        low=min(ends),
        high=max(ends),
        contributions=dict(zip(Modality, added, strict=True)),
    ),
    finite,
    ranges,
    st.tuples(finite, finite, finite),
)
predictions = st.builds(
    make_prediction,
    st.integers(1, 10**9),
    session=names,
    epoch=counts,
    status=st.sampled_from(Status),
    revision=counts,
    heads=st.dictionaries(names, head_results(), min_size=1, max_size=3),
    modalities=st.fixed_dictionaries(dict.fromkeys(Modality, reports)),
    align_error_ms=st.floats(0, 1e6),
    align_tier=names,
    skipped_windows=counts,
    dropped=st.dictionaries(names, counts, max_size=3),
    stages=st.dictionaries(names, finite, max_size=4).map(lambda ms: StageTimes(ms=ms)),
    numbers=st.dictionaries(names, numbers, max_size=2),
    adaptation=st.none() | adaptations,
)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@given(predictions)
def test_every_document_follows_the_schema(prediction: Prediction) -> None:
    Draft202012Validator(SCHEMA).validate(document(prediction))


@given(predictions)
def test_reading_and_writing_again_gives_the_same_bytes(prediction: Prediction) -> None:
    text = to_json(prediction)
    again = from_json(text)
    assert to_json(again) == text
    assert from_json(text.encode()) == again


def test_the_schema_names_exactly_the_keys_of_a_document() -> None:
    value = document(make_prediction())
    assert list(value) == SCHEMA["required"]
    of_several = document(replace(make_prediction(), participants={"ann": 1.0, "bob": 0.0}))
    number = NumberResult(value=0.5, low=0.0, high=1.0, contributions=dict.fromkeys(Modality, 0.1))
    adapted = document(
        replace(
            make_prediction(),
            numbers={"stress": number},
            participants={"ann": 1.0},
            adaptation=ADAPTED,
        )
    )
    told = SCHEMA["properties"]["numbers"]["additionalProperties"]
    assert list(adapted["numbers"]["stress"]) == list(told["properties"]) == told["required"]
    assert list(adapted) == list(SCHEMA["properties"])
    assert set(of_several) == set(adapted) - {"adaptation", "numbers"}
    schema = SCHEMA["properties"]["adaptation"]["properties"]
    said = adapted["adaptation"]
    assert list(said) == list(schema)
    used = schema["prior"]["additionalProperties"]
    assert list(said["prior"]["sentiment"]) == list(used["properties"]) == used["required"]
    for part in ("baseline", "drift"):
        assert list(said[part]) == list(schema[part]["properties"]) == schema[part]["required"]
    alarm = schema["drift"]["properties"]["alarms"]["items"]
    assert list(said["drift"]["alarms"][0]) == list(alarm["properties"]) == alarm["required"]
    modality = SCHEMA["$defs"]["modality"]
    assert list(value["modalities"]["video"]) == list(modality["properties"])
    assert list(modality["properties"]) == modality["required"]


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        (("status",), "perhaps"),
        (("window",), 0),
        (("start_wall",), "2026-01-01 00:00:00"),
        (("modalities", "chat", "state"), "gone"),
        (("modalities", "video", "coverage"), 1.5),
        (("heads", "sentiment", "probabilities"), [2.0]),
        (("dropped",), {"queue": -1}),
        (("adaptation",), {"drift": {"alarms": []}}),
        (("adaptation",), {"prior": {"emotion": {"base": [0.5, 0.5]}}}),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str, ...], bad: object) -> None:
    value = document(make_prediction())
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = bad
    assert not Draft202012Validator(SCHEMA).is_valid(value)


def test_the_document_says_what_the_prediction_says() -> None:
    value = document(make_prediction(12, dropped={"video:stale": 3, "none": 0}, skipped_windows=2))
    assert value["schema_version"] == 1
    assert value["window"] == 12
    assert (value["start_ns"], value["end_ns"]) == (2_750_000_000, 3_000_000_000)
    assert value["start_wall"] == "2026-09-21T14:13:22.873Z"
    assert value["end_wall"] == "2026-09-21T14:13:23.123Z"
    assert value["emitted_wall"] == "2026-09-21T14:13:23.154Z"
    assert value["heads"]["emotion"]["probabilities"] == [0.333333, 0.666667]
    assert value["modalities"]["audio"] == {
        "state": "partial",
        "reason": "gaps",
        "coverage": 0.666667,
        "age_ns": 0,
        "contributions": {},
    }
    assert value["dropped"] == {"video:stale": 3}
    assert value["skipped_windows"] == 2
    assert value["stages_ms"] == {"vision": 1.23457, "fusion": 0.5}
    assert value["bundle"] == {"id": "affect", "digest": "0123456789ab"}


def test_the_order_in_which_heads_and_reasons_were_put_does_not_show() -> None:
    one = make_prediction(dropped={"a": 1, "b": 2})
    other = replace(
        one,
        heads=dict(reversed(list(one.heads.items()))),
        modalities=dict(reversed(list(one.modalities.items()))),
        dropped={"b": 2, "a": 1},
    )
    assert to_json(other) == to_json(one)


def test_minus_zero_is_zero() -> None:
    assert to_json(make_prediction(align_error_ms=-0.0)) == to_json(
        make_prediction(align_error_ms=0.0)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(make_prediction(align_error_ms=value))


def test_stable_json_differs_by_nothing_but_what_the_input_decides() -> None:
    one = make_prediction()
    other_run = replace(
        one,
        start_wall_ns=one.start_wall_ns + 10**9,
        end_wall_ns=one.end_wall_ns + 10**9,
        emitted_wall_ns=one.emitted_wall_ns + 10**9,
        stages=StageTimes(ms={"vision": 99.0}),
    )
    assert to_json(other_run) != to_json(one)
    assert stable_json(other_run) == stable_json(one)
    assert stable_json(replace(one, revision=1)) != stable_json(one)
    differing = [k for k, v in document(one).items() if document(other_run)[k] != v]
    assert sorted(differing) == sorted(VOLATILE_KEYS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema_version":2}', "schema_version is 2, this release reads 1"),
        ("{}", "schema_version is None"),
        ('{"schema_version":1}', "key 'modalities' is missing"),
    ],
)
def test_what_is_no_prediction_is_named(text: str, says: str) -> None:
    with pytest.raises(PredictionFormatError, match=says):
        from_json(text)


@pytest.mark.parametrize(
    ("key", "bad", "says"),
    [
        ("window", "1", "window must be an integer, not '1'"),
        ("window", True, "window must be an integer"),
        ("epoch", -1, "epoch must not be negative"),
        ("session", 5, "session must be a string"),
        ("status", "perhaps", "'perhaps' is not a valid Status"),
        ("heads", [], "attribute"),
        ("heads", {"x": {"labels": ["a"], "probabilities": []}}, "1 labels do not fit 0"),
        ("heads", {"x": {"labels": [1], "probabilities": [1.0]}}, "labels must be strings"),
        ("modalities", {}, "key 'video' is missing"),
        ("end_ns", -(10**18), "is empty"),
        ("start_wall", "yesterday", "yesterday"),
        ("bundle", None, "subscriptable"),
        ("adaptation", {"drift": {"alarms": [], "total": -1}}, "total must be a count"),
        ("adaptation", {"baseline": {"windows": 3}}, "key 'of' is missing"),
    ],
)
def test_a_document_with_a_wrong_value_is_refused(key: str, bad: object, says: str) -> None:
    value = document(make_prediction()) | {key: bad}
    with pytest.raises(PredictionFormatError, match=says):
        from_json(json.dumps(value))


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_no_key_may_be_missing(key: str) -> None:
    value = document(make_prediction())
    del value[key]
    with pytest.raises(PredictionFormatError):
        from_json(json.dumps(value))
    assert not Draft202012Validator(SCHEMA).is_valid(value)


def test_keys_of_a_later_release_are_ignored() -> None:
    value = document(make_prediction()) | {"new": {"x": 1}}
    assert from_json(json.dumps(value)) == from_json(to_json(make_prediction()))
    Draft202012Validator(SCHEMA).validate(value)


def test_a_prediction_needs_a_report_for_every_modality_and_a_span() -> None:
    with pytest.raises(ValueError, match="no report for audio, chat"):
        make_prediction(
            modalities={Modality.VIDEO: ModalityReport(state=State.PRESENT, coverage=1.0)}
        )
    with pytest.raises(ValueError, match="is empty"):
        make_prediction(end_ns=0)
    with pytest.raises(ValueError, match="coverage"):
        ModalityReport(state=State.PRESENT, coverage=1.01)


def test_the_top_label_is_the_most_probable() -> None:
    head = HeadResult(labels=("a", "b", "c"), probabilities=(0.2, 0.4, 0.4))
    assert head.top == ("b", 0.4)
