"""Purpose profiles: what is locked stays locked, whatever a configuration says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.engine.config import Config, ConfigError, PurposeSection, load_config
from counterpoint.engine.live_sources import open_live
from counterpoint.engine.purpose import PROFILES
from counterpoint.engine.sources import open_replay
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Modality
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CHAT, GRID_CLIP, load_models, play
from tests.support.virtual import VirtualRuntime


def test_general_allows_all_that_the_bundle_can() -> None:
    section = PurposeSection()
    assert section.allowed_heads(["emotion", "sentiment"]) == {"emotion", "sentiment"}
    assert section.may_store_media


def test_at_work_emotions_faces_and_voices_are_locked() -> None:
    section = PurposeSection(profile="workplace")
    assert section.allowed_heads(["emotion", "sentiment"]) == {"sentiment"}
    assert section.modalities == {Modality.CHAT}
    assert not section.may_store_media
    with pytest.raises(ConfigError, match="allows none"):
        section.allowed_heads(["emotion"])


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_media_true_never_adds_to_a_profile(name: str) -> None:
    assert PurposeSection(profile=name, media=True).may_store_media == PROFILES[name].media
    assert not PurposeSection(profile=name, media=False).may_store_media


def test_a_locked_head_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="the profile workplace locks 'emotion'"):
        load_config(sets=["purpose.profile=workplace", "purpose.heads=emotion"])
    with pytest.raises(ConfigError, match="profile is any of"):
        load_config(sets=["purpose.profile=surveillance"])


def test_a_head_that_the_bundle_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="no head 'joy'"):
        PurposeSection(heads="joy").allowed_heads(["emotion"])


def test_of_a_locked_head_nothing_is_told(tmp_path: Path) -> None:
    models = load_models(tiny_bundle(tmp_path / "tiny"))
    heads = sorted(models.bundle.manifest.heads)
    kept = heads[0]
    config = replace(Config(), purpose=PurposeSection(heads=kept))
    played = play(models, open_replay(GRID_CLIP, GRID_CHAT), config=config)
    assert len(heads) > 1
    for prediction in played.predictions:
        assert set(prediction.heads) == {kept}
        for report in prediction.modalities.values():
            assert set(report.contributions) <= {kept}


def test_a_modality_that_the_profile_forbids_is_not_opened() -> None:
    with pytest.raises(UsageError, match="workplace takes in no video"):
        open_live(
            "s",
            video="webcam:0",
            audio="none",
            chat="none",
            runtime=VirtualRuntime(),
            redis_url="",
            profile="workplace",
        )
