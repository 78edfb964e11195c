"""What the graphs of a bundle are really given: inputs of each role, from sessions over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from counterpoint.engine.device import Arrays, Graph
from counterpoint.engine.graphs import GraphSpec
from counterpoint.engine.models import Models
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.evaluation.scoring import Scored, score_rows


def capture(
    models: Models, examples: Sequence[Example], *, most: int, seed: int
) -> tuple[dict[str, list[dict[str, npt.NDArray[Any]]]], list[Scored]]:
    """Inputs by role, at most ``most`` of each, drawn evenly over all; and what was said.

    Raises:
        DatasetError: naming the row that cannot be played.
    """
    random = np.random.default_rng(seed)
    kept: dict[str, _Kept] = {
        role: _Kept(graph, most, random) for role, graph in models.graphs.items()
    }
    scored = score_rows(replace(models, graphs=kept), examples)
    return {role: graph.inputs for role, graph in kept.items()}, scored


class _Kept:
    """A graph that keeps some of what it is given. Implements `engine.device.Graph`."""

    def __init__(self, graph: Graph, most: int, random: np.random.Generator) -> None:
        self._graph = graph
        self._most = most
        self._random = random
        self._seen = 0
        self.inputs: list[dict[str, npt.NDArray[Any]]] = []

    @property
    def role(self) -> str:
        return self._graph.role

    @property
    def spec(self) -> GraphSpec:
        return self._graph.spec

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See `Graph.run`."""
        self._seen += 1
        # Every input is as likely to stay as any other (reservoir sampling, Vitter 1985).
        place = len(self.inputs)
        if place >= self._most:
            place = int(self._random.integers(self._seen))
        if place < self._most:
            copy = {name: np.array(array) for name, array in inputs.items()}
            self.inputs[place : place + 1] = [copy]
        return self._graph.run(inputs)
