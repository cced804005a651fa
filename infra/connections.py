"""How many database connections each client may hold, and hence how many the server must allow.

There is no pooler: each Lambda environment keeps one connection, and Lambda's own limits say how many environments
there are. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html#events-sqs-max-concurrency
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.settings import Settings

LOADER_LOGINS = ("iot_loader", "iot_loader_clone")
"""The two names that rotation alternates between (docs/passwords.md)."""
_OF_CONSUMERS = {"grafana": 10, "scada": 5}
RULE_ERRORS_MAX_CONCURRENCY = 2
"""Of the function that quarantines messages whose rule action failed, hence its database connections."""
_SUPERUSER_RESERVE = 3
_HEADROOM = 0.2
_OVERLAP = 2
"""Environments of the release before are frozen with their connections when those of the next one connect; the server
notices that they are gone after 90 s (lambdas/shared/database.py)."""


@dataclass(frozen=True)
class ConnectionBudget:
    """What each client may hold at once."""

    loader: Mapping[str, int]
    """Connections of the functions that log in with the loader's secret, by function name."""
    admin: Mapping[str, int]
    """Of those that log in with the admin's, by function name."""
    people: Mapping[str, int]
    """Of what is no function and has no limit: operators, what runs on the instance itself."""
    consumers: Mapping[str, int] = field(default_factory=dict)
    """Of those who only read, by login."""

    @property
    def clients(self) -> dict[str, int]:
        """Every client and its connections."""
        return {**self.loader, **self.admin, **self.consumers, **self.people}

    @property
    def superuser_reserve(self) -> int:
        """PostgreSQL's `superuser_reserved_connections`: the way in when all others are taken."""
        return _SUPERUSER_RESERVE

    @property
    def max_connections(self) -> int:
        """PostgreSQL's `max_connections`: all clients at once, a fifth more, and the superuser's reserve."""
        clients = sum(self.clients.values())
        return clients + round(clients * _HEADROOM) + self.superuser_reserve

    @property
    def limits(self) -> dict[str, int]:
        """The CONNECTION LIMIT of each role that has one.

        Each of the loader's logins may hold all of the loader's connections, since after a rotation all clients move
        to the other one; there are not more clients for that, so `max_connections` counts them once. So it is with a
        consumer's: the migrator gives the second login the limit of the first.
        """
        return {**dict.fromkeys(LOADER_LOGINS, sum(self.loader.values())), **self.consumers}


def connection_budget(settings: Settings) -> ConnectionBudget:
    """The budget of an environment."""
    names = settings.names
    return ConnectionBudget(
        loader={
            names.loader: settings.loader_max_concurrency * _OVERLAP,
            names.rule_errors_loader: RULE_ERRORS_MAX_CONCURRENCY * _OVERLAP,
            # The run over the last hours, and the daily one over everything.
            names.sweeper: 2,
            # Every minute: one run may still wait while the next begins.
            names.watch: 2,
            # Every minute, and may take several: one does the work, the others see that and leave.
            names.maintenance: 5,
        },
        admin={
            names.migrator: 1,
            # The admin's secret and one for each login, all of which may be rotated at once.
            names.rotation: 2 + len(settings.consumers),
        },
        consumers={name: _OF_CONSUMERS[name] for name in settings.consumers},
        people={"operators": 10, "backup and agent": 4},
    )
