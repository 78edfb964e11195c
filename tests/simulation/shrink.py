"""A failing plan made small: without noise, with the fewest faults, as short as may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.plan import Plan

SHORTEST_S = 5.0


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The smallest plan found that still fails; ``plan`` itself must."""
    quiet = replace(plan, noise=False)
    if fails(quiet):
        plan = quiet
    if plan.sessions > 1 and fails(alone := replace(plan, sessions=1)):
        plan = alone
    for name in sorted(plan.faults):
        fewer = replace(plan, faults=plan.faults - {name})
        if fails(fewer):
            plan = fewer
    while plan.seconds / 2 >= SHORTEST_S:
        shorter = replace(plan, seconds=plan.seconds / 2)
        if not fails(shorter):
            break
        plan = shorter
    return plan
