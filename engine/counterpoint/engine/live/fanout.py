"""Predictions to any number of readers, none of which can hold another back."""

from __future__ import annotations

from counterpoint.engine.prediction import Prediction
from counterpoint.engine.readout import Readout

READER_SIZE = 64


class Fanout:
    """Hands each prediction to every reader; a slow one loses its oldest."""

    def __init__(self) -> None:
        self._readers: list[Readout] = []
        self._closed = False
        self.dropped = 0  # by readers that have left

    @property
    def readers(self) -> int:
        return len(self._readers)

    def put(self, prediction: Prediction) -> None:
        for reader in self._readers:
            reader.put(prediction)

    def open(self) -> Readout:
        """A new reader, from now on. Give it back by `leave`."""
        reader = Readout(READER_SIZE)
        if self._closed:
            reader.close()
        self._readers.append(reader)
        return reader

    def leave(self, reader: Readout) -> None:
        self._readers.remove(reader)
        self.dropped += reader.dropped

    def close(self) -> None:
        """Nothing more will be put: readers end when they have read what waits."""
        self._closed = True
        for reader in self._readers:
            reader.close()
