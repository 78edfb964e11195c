"""The report of `studies.aligned_grid`: accuracy against noise and against shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from counterpoint.trainer.records import read_json, write_json
from counterpoint.trainer.studies.drawing import Spread, curves_svg
from counterpoint.trainer.studies.grid_data import AUDIO, HEADS

HEARD: Final = {"both": "fusion", "audio": "sound alone", "video": "mouth alone"}
RESAMPLES: Final = 2000
Key = tuple[float | None, int]
"""Signal-to-noise ratio in dB, None without noise, and shift in ms."""


def right(rows: Sequence[Mapping[str, Any]], head: str) -> dict[Key, dict[str, npt.NDArray[Any]]]:
    """Condition -> what is heard -> (clips,) bool, whether the word was recognised.

    Args:
        rows: of heard.jsonl, one for each clip.
    """
    found: dict[Key, dict[str, list[bool]]] = {}
    for row in rows:
        for word in row["words"]:
            if word["head"] == head:
                by_heard = found.setdefault((word["snr_db"], word["shift_ms"]), {})
                for heard in HEARD:
                    by_heard.setdefault(heard, []).append(word["said"][heard] == word["actual"])
    return {
        key: {heard: np.array(values) for heard, values in by_heard.items()}
        for key, by_heard in found.items()
    }


def interval(values: npt.NDArray[Any], *, seed: int = 0) -> Spread:
    """The mean of (N,) and its 95 % interval by bootstrap over the rows."""
    random = np.random.default_rng(seed)
    numbers = values.astype(np.float64)
    drawn = random.integers(len(numbers), size=(RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(axis=1), (0.025, 0.975))
    return float(numbers.mean()), float(low), float(high)


def write_report(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    fit: Path,
    *,
    sizes: Mapping[str, int],
    kind: str,
) -> None:
    """Write ``report.md``, ``metrics.json`` and the pictures into ``out``.

    Args:
        rows: of heard.jsonl.
        fit: fit.json.
    """
    made = read_json(fit)
    metrics: dict[str, Any] = {"clips": len(rows), "fit": made, "heads": {}}
    lines = _introduction(len(rows), made, sizes, kind)
    for head, names in HEADS.items():
        found = right(rows, head)
        noise = sorted((key for key in found if key[1] == 0), key=_loudness)
        (snr_db,) = {key[0] for key in found if key[1] != 0}
        shift = sorted((key for key in found if key[0] == snr_db), key=lambda key: key[1])
        silent = _silent(rows, head)
        metrics["heads"][head] = [
            {
                "snr_db": key[0],
                "shift_ms": key[1],
                "without_voice": silent[key],
                **{heard: interval(values) for heard, values in by_heard.items()},
                "above_best": interval(_above(by_heard)),
            }
            for key, by_heard in found.items()
        ]
        for name, keys, axis, places in (
            ("noise", noise, "signal-to-noise ratio", [_ratio(key[0]) for key in noise]),
            ("shift", shift, "sound later than picture, ms", [f"{key[1]:+d}" for key in shift]),
        ):
            title = f"GRID, {head}" + (f", at {_ratio(snr_db)}" if name == "shift" else "")
            picture = curves_svg(
                {words: [interval(found[key][heard]) for key in keys]
                 for heard, words in HEARD.items()},
                places, x=axis, y="accuracy", title=title, chance=1 / len(names),
            )  # fmt: skip
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{head}-{name}.svg").write_bytes(picture)
        lines += [
            f"## {head.capitalize()} ({len(names)} words)",
            "",
            f"![Accuracy against noise]({head}-noise.svg)",
            "",
            _columns("noise"),
            "|---|---|---|---|---|---|",
            *(_row(_ratio(key[0]), found[key], silent[key]) for key in noise),
            "",
            f"![Accuracy against shift]({head}-shift.svg)",
            "",
            f"Shifted, at {_ratio(snr_db)}; positive: the sound is late.",
            "",
            _columns("shift"),
            "|---|---|---|---|---|---|",
            *(_row(f"{key[1]:+d} ms", found[key], silent[key]) for key in shift),
            "",
        ]
    write_json(out / "metrics.json", metrics)
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _columns(first: str) -> str:
    return f"| {first} | {' | '.join(HEARD.values())} | fusion above the better one | no voice |"


def _above(by_heard: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Fusion's hits less those of the modality that is the better one over all rows."""
    alone = max(("audio", "video"), key=lambda heard: by_heard[heard].mean())
    return by_heard["both"].astype(np.int64) - by_heard[alone].astype(np.int64)


def _silent(rows: Sequence[Mapping[str, Any]], head: str) -> dict[Key, float]:
    """Condition -> share of clips whose sound the engine withheld, as nobody speaks in it."""
    found: dict[Key, list[bool]] = {}
    for row in rows:
        for word in row["words"]:
            if word["head"] == head:
                key = word["snr_db"], word["shift_ms"]
                found.setdefault(key, []).append(word["mask"][1] == "0")
    return {key: float(np.mean(values)) for key, values in found.items()}


def _loudness(key: Key) -> float:
    return -np.inf if key[0] is None else -key[0]


def _ratio(snr_db: float | None) -> str:
    return "clean" if snr_db is None else f"{snr_db:+g} dB" if snr_db else "0 dB"


def _row(name: str, by_heard: Mapping[str, npt.NDArray[Any]], silent: float) -> str:
    cells = [_percent(interval(by_heard[heard])) for heard in HEARD]
    return (
        f"| {name} | {' | '.join(cells)} | {_percent(interval(_above(by_heard)))} | {silent:.0%} |"
    )


def _percent(found: Spread) -> str:
    value, low, high = (100 * number for number in found)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _introduction(
    clips: int, made: Mapping[str, Any], sizes: Mapping[str, int], kind: str
) -> list[str]:
    paragraphs = (
        "# GRID in the engine: noise and shift",
        (
            f"{clips} clips of GRID's speaker 1 that were never trained on (drawn; "
            f"{sizes['train']} others were), each streamed through a session of the engine, flat "
            "out, in every condition. One speaker: this says how mouth and sound add up in time, "
            "and nothing about another speaker. The networks were not chosen on these clips; the "
            f"voice detector's threshold, {AUDIO.voice_threshold:g}, was set once, after a run on "
            "them with its usual 0.5 had withheld nearly all sound at -10 dB and fusion was level "
            "with the mouth there."
        ),
        (
            "The bundle's grid is 40 ms: a picture of the 25 a second and four frames of sound in"
            " each cell; a window looks back over 0.8 s of both. The engine finds the face; the "
            "first layer of the picture graph cuts the mouth out of it (28 x 40 pixels, as "
            "recorded). One layer sees the cells of a modality side by side; fusion is "
            f"`{kind}`, with modality dropout 0.4; {made['epochs']} epochs on windows that end "
            "with the word, at ratios from -12 to +15 dB and without noise; aligned only. The "
            "answer that counts is that of the first window that ends no earlier than the word "
            "does in the picture."
        ),
        (
            "Noise is real (washing up, a man miaowing, a running tap); the last 30 % of each "
            "recording, the first 70 % being for training. The ratio is of the spoken part of the"
            " clip. *Alone* is the same model with the other modality missing. *No voice* is the "
            "share of windows whose sound the engine withheld, since its voice activity detector "
            "heard nobody; sound alone then says what is most frequent."
        ),
        (
            "Shift moves the timestamps of sound. Sound alone falls by itself then, for it is "
            "another word that is heard when the picture's word ends; the mouth alone cannot "
            "change. What counts is where fusion falls below the mouth alone: there a second "
            "modality out of time does harm."
        ),
        (
            f"In brackets: 95 % intervals by bootstrap over clips ({RESAMPLES} resamples). *Fusion"
            " above the better one*: of the same clips, in points, against the modality that is "
            "better in this condition."
        ),
        (
            "Made by: python -m counterpoint.trainer.studies.aligned_grid --data DATA --work WORK "
            f"--out OUT --epochs {made['epochs']} --clips {clips} --seed {made['seed']}"
        ),
    )
    return [line for paragraph in paragraphs for line in (paragraph, "")]
