"""A fit in two processes, as torchrun starts them; gloo on the CPU."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.trainer.fit.checkpoint import read_checkpoint
from counterpoint.trainer.fit.run import LAST
from counterpoint.trainer.records import read_json
from tests.support.fit_data import SMALL, make_data

pytestmark = pytest.mark.trainer

TORCHRUN = """
import json, os, sys
from pathlib import Path
from counterpoint.trainer.fit.config import read_config
from counterpoint.trainer.fit.run import fit
data, out = map(Path, sys.argv[1:])
result = fit(read_config(data / "config.toml", ["fit.epochs=1"]), out)
# A file for each process: what two of them print may share a line.
(data / f"said-{os.environ['RANK']}.json").write_text(json.dumps(result))
"""


def test_two_processes_through_torchrun(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_data(data)
    (data / "config.toml").write_text(SMALL)
    script = tmp_path / "main.py"
    script.write_text(TORCHRUN)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(data), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((data / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first == read_json(out / "metrics.json") != {}
    assert second == {}  # it writes nothing
    # 12 rows of train in batches of 4: three steps alone, two for each of two processes.
    assert read_checkpoint(out / LAST)["global_step"] == 2
