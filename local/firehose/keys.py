"""The keys of delivered objects: https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html"""

import re
from datetime import datetime

# Of Java's DateTimeFormatter, what key prefixes are made of.
_FIELDS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
_EXPRESSION = re.compile(r"!\{timestamp:([^}]*)\}")


def object_key(prefix: str, stream: str, at: datetime, unique: str, *, gzip: bool) -> str:
    """The key Firehose gives an object whose first record came at `at` (UTC).

    `prefix` may contain `!{timestamp:...}`; one without any gets Firehose's own `YYYY/MM/DD/HH/` appended.
    """
    expanded = _EXPRESSION.sub(lambda found: _format(found[1], at), prefix)
    if expanded == prefix:
        expanded += f"{at:%Y/%m/%d/%H/}"
    return f"{expanded}{stream}-1-{at:%Y-%m-%d-%H-%M-%S}-{unique}" + (".gz" if gzip else "")


def _format(pattern: str, at: datetime) -> str:
    return re.sub(r"y+|M+|d+|H+|m+|s+", lambda run: at.strftime(_FIELDS.get(run[0], run[0])), pattern).replace("'", "")
