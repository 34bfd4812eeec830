"""Trouble on request: for tests that ask what becomes of a job when disks fill up, machines die and stores stumble.

::

    from volumetool.testing import CrashRunner, DiskFault, lose_power

    with CrashRunner(["my_tests"]) as runner:
        whole = runner.run("my_tests:enhance", options, root=folder)
        for number in range(1, len(whole.events) + 1):
            runner.run("my_tests:enhance", options, root=folder, fault=DiskFault("kill-before", number))
            assert runner.run("my_tests:enhance", options, root=folder).value == whole.value

What fails is the disk below the process, not a function that stands in for it: Python, C++ and Rust are met alike.
`CrashRunner` and `DiskFault` need Linux and a C compiler; `FaultyProxy` (object stores), `SimulatedClock` and the fake models
run everywhere. Those are known once `register_fakes` was called, in each process that loads one.

A format that is read passes `volumetool.testing.format_suite.FormatSuite`, a cluster
`volumetool.testing.cluster_suite.ClusterSuite`; both need pytest.
"""

from __future__ import annotations

from volumetool.testing.clock import SimulatedClock
from volumetool.testing.crash import CrashRunner, Ended
from volumetool.testing.disk import Action, DiskEvent, DiskFault, Kind, can_fail
from volumetool.testing.fakes import Fake, FakeConfig, FakeModel, fake_model, register_fakes
from volumetool.testing.faults import Fault
from volumetool.testing.power import Loss, lose_power
from volumetool.testing.proxy import FaultyProxy, ProxyRequest, Reply

__all__ = [
    "Action",
    "CrashRunner",
    "DiskEvent",
    "DiskFault",
    "Ended",
    "Fake",
    "FakeConfig",
    "FakeModel",
    "Fault",
    "FaultyProxy",
    "Kind",
    "Loss",
    "ProxyRequest",
    "Reply",
    "SimulatedClock",
    "can_fail",
    "fake_model",
    "lose_power",
    "register_fakes",
]
