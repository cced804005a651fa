"""Links from one dashboard to another; the range of time goes along."""

from dashboards.panels import Link

TO_DEVICE = Link(
    "This device", "/d/iot-device?${__url_time_range}&${site:queryparam}&var-device=${__data.fields.device_id}"
)
"""For a table that has a column `device_id`."""
TO_DEVICE_ANYWHERE = Link("This device", "/d/iot-device?${__url_time_range}&var-device=${__data.fields.device_id}")
"""The same, on a dashboard without the variable `site`."""


def to(uid: str, title: str) -> Link:
    """To a whole dashboard."""
    return Link(title, f"/d/{uid}?${{__url_time_range}}")
