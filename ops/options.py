"""Options that many commands have."""

from typing import Annotated

import typer

Env = Annotated[str, typer.Option("--env", help="Environment: local, dev, staging or prod.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
