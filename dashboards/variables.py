"""The variables at the top of the dashboards, and the conditions that they make in SQL."""

from grafana_foundation_sdk.builders.dashboard import CustomVariable, QueryVariable, TextBoxVariable
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh

from dashboards.source import data_source
from lambdas.shared.contract import METRICS

# All is put into SQL as it stands here, whatever the format, and is one constant: the planner folds what is compared with it.
_ALL = "'*'"

SITE = (
    f"({_ALL} IN (${{site:sqlstring}}) OR device_id IN "
    "(SELECT device_id FROM devices WHERE coalesce(site_id, '(none)') IN (${site:sqlstring})))"
)
"""Condition on a column `device_id`: stands at one of the chosen sites."""
DEVICE = "device_id = ${device:sqlstring}"
"""Condition on a column `device_id`: is the chosen device."""


def site() -> QueryVariable:
    """Any number of sites, All at first. Devices without a site have one of their own, `(none)`."""
    return (
        QueryVariable("site")
        .label("Site")
        .description("Where devices stand, by the registry")
        .datasource(data_source())
        .query(
            "SELECT name AS __text, site_id AS __value FROM sites "
            "UNION ALL SELECT '(no site)', '(none)' ORDER BY 1 LIMIT 1000"
        )
        .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(True)
        .include_all(True)
        .all_value(_ALL)
        .current(VariableOption(text=["All"], value=["$__all"]))
    )


def device() -> QueryVariable:
    """One device of the chosen sites. What is typed narrows the list in the database: a fleet does not fit a list."""
    return (
        QueryVariable("device")
        .label("Device")
        .description("Type a part of its name; the first 500 are listed")
        .datasource(data_source())
        .query(f"SELECT device_id FROM devices WHERE device_id LIKE '%$__searchFilter' AND {SITE} ORDER BY 1 LIMIT 500")
        .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(False)
        .include_all(False)
    )


def metric() -> CustomVariable:
    """One metric, by its name in the telemetry contract."""
    names = [each.name for each in METRICS]
    return (
        CustomVariable("metric")
        .label("Metric")
        .description("What is measured")
        .values(",".join(names))
        .options([VariableOption(text=name, value=name, selected=name == names[0]) for name in names])
        .current(VariableOption(text=names[0], value=names[0], selected=True))
        .multi(False)
        .include_all(False)
    )


def number(name: str, label: str, description: str, value: str) -> TextBoxVariable:
    """A number that the database cannot know."""
    return (
        TextBoxVariable(name)
        .label(label)
        .description(description)
        .default_value(value)
        .current(VariableOption(text=value, value=value))
        .options([VariableOption(text=value, value=value, selected=True)])
    )
