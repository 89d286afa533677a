"""Conformance suites for plug-ins, ours and other people's: one call in a test of your own.

    from mdm_schedules.testing import check_policy

    def test_my_policy():
        check_policy(MyPolicy(strength=0.5))

Each raises AssertionError with the plug-in and what is wrong with it. No test framework is needed.
"""

from mdm_schedules.testing.adapters import check_adapter
from mdm_schedules.testing.commits import check_commit_rule
from mdm_schedules.testing.objectives import check_objective
from mdm_schedules.testing.policies import check_policy
from mdm_schedules.testing.schedules import check_schedule

__all__ = [
    "check_adapter",
    "check_commit_rule",
    "check_objective",
    "check_policy",
    "check_schedule",
]
