"""What a process holds once for all its sessions: one bundle's graphs, compiled for one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.device import Device, Graph
from counterpoint.engine.graphs import ROLES
from counterpoint.engine.preprocess.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Compiled graphs of one bundle on one device, shared by all sessions of the process."""

    bundle: Bundle
    graphs: Mapping[str, Graph]
    tokenizer: Tokenizer

    @classmethod
    def load(cls, bundle: Bundle, device: Device) -> Models:
        """Compile every graph of the bundle.

        Raises:
            BundleError: a graph does not load on this device.
        """
        return cls(
            bundle=bundle,
            graphs={role: device.load(bundle, role) for role in ROLES},
            tokenizer=Tokenizer(bundle.tokenizer_path, bundle.manifest.modalities.chat),
        )
