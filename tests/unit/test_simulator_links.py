"""How links are stopped, started again and given up, in virtual time."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from simulator.run.links import Links


class _Link:
    def __init__(self) -> None:
        self.stops: list[bool] = []

    def stop(self, *, abrupt: bool = False) -> None:
        self.stops.append(abrupt)


def _links(started: list[int]) -> Links:
    return Links(started.append, unthrottled=False, workers=1, now=0.0)


def test_a_device_that_reboots_is_started_again_only_once_its_link_has_stopped() -> None:
    started: list[int] = []
    links, link = _links(started), _Link()
    device: Any = SimpleNamespace(link=link)
    links.want(7)
    links.start_due(0.0)
    links.answered(7, accepted=True)
    links.drop(device, 7, abrupt=False)
    links.want(7)
    links.start_due(1.0)
    assert (started, link.stops) == ([7], [False])
    links.stopped(7, 1.5)
    links.start_due(1.5)
    assert started == [7, 7]
    links.drop(device, 7, abrupt=True)
    links.close()
    links.want(7)
    links.stopped(7, 2.0)
    links.start_due(60.0)
    assert (started, link.stops, links.all_stopped) == ([7, 7], [False, True], True)


def test_a_link_that_gives_up_is_started_again_ever_more_patiently() -> None:
    started: list[int] = []
    links = _links(started)
    links.want(1)
    times: list[float] = []
    now = 0.0
    while len(times) < 8:
        links.start_due(now)
        if len(started) > len(times):
            times.append(now)
            links.answered(1, accepted=False)
            links.stopped(1, now)
        now += 0.5
    assert [after - before for before, after in pairwise(times)] == [1, 2, 4, 8, 16, 30, 30]
