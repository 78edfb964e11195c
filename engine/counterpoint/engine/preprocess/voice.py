"""Is somebody speaking? Silero VAD over hops that its frames do not divide."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from counterpoint.engine.device import Graph
from counterpoint.engine.graphs import VAD_CONTEXT_SAMPLES, VAD_HOP_SAMPLES, VAD_STATE_WIDTH
from counterpoint.streams.types import BoolArray, Float32Array


class VoiceActivity:
    """Speech probability of one hop after another, from a Silero VAD graph.

    The graph takes frames of 512 samples, each with the 64 samples before it, and carries its
    state from frame to frame (as ``OnnxWrapper`` in the authors' ``utils_vad.py`` feeds it).
    Frames run on across hops; a frame counts for the hop in which it ends, so a hop of 4,000
    samples has 7 or 8 of them.
    """

    def __init__(self, graph: Graph, *, rate_hz: int = 16_000) -> None:
        self._graph = graph
        self._rate = np.array(rate_hz, np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self._state = np.zeros((2, 1, VAD_STATE_WIDTH), np.float32)
        # What the next frame starts with: the context before it and samples short of a frame.
        self._pending = np.zeros(VAD_CONTEXT_SAMPLES, np.float32)

    def snapshot(self) -> tuple[Float32Array, Float32Array]:
        """What is kept of the sound so far, for `restore`. Never changed later."""
        return self._state, self._pending

    def restore(self, snapshot: tuple[Float32Array, Float32Array]) -> None:
        """Go back to where ``snapshot`` was taken."""
        self._state, self._pending = snapshot

    def push(self, samples: Float32Array, valid: BoolArray | None = None) -> float:
        """Greatest speech probability of the frames that end within this hop; 0 if none does.

        The greatest, not the mean: a hop in which a word begins or ends is a voiced one, and the
        graph's own state already smooths over single frames.

        Args:
            samples: (hop,) float32 at the graph's rate.
            valid: (hop,) bool. Wherever it is false the state is reset, and each valid stretch
                is listened to for itself. None: all valid.
        """
        if valid is None or valid.all():
            return self._listen(samples)
        probability = 0.0
        edges = np.flatnonzero(np.diff(valid.astype(np.int8))) + 1
        for start, end in pairwise([0, *edges.tolist(), len(samples)]):
            if valid[start]:
                probability = max(probability, self._listen(samples[start:end]))
            else:
                self.reset()
        return probability

    def _listen(self, samples: Float32Array) -> float:
        pending = np.concatenate([self._pending, samples])
        probability = 0.0
        frame_end = VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES
        while len(pending) >= frame_end:
            outputs = self._graph.run(
                {"input": pending[None, :frame_end], "state": self._state, "sr": self._rate}
            )
            self._state = outputs["stateN"]
            probability = max(probability, float(outputs["output"][0, 0]))
            pending = pending[VAD_HOP_SAMPLES:]
        self._pending = pending
        return probability
