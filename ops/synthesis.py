"""Synthesises an environment in this process: no credentials, nothing asked of AWS."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import Settings, load
from ops.errors import UserError
from ops.paths import ROOT

if TYPE_CHECKING:
    from aws_cdk import App


def settings_of(environment: str, overrides: Mapping[str, str]) -> Settings:
    """The environment's settings. Raises UserError for `local`, which costs nothing, and for what is not usable."""
    settings = load(environment, overrides)
    if settings.environment == "local":
        raise UserError("environment 'local' runs on this machine and costs nothing: give dev, staging or prod")
    return settings


def templates_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """The templates of an environment by stack name, as `cdk synth` writes them with this checkout's context.

    Raises UserError when the app does not synthesise.
    """
    with tempfile.TemporaryDirectory(prefix="fleetledger-synth-") as folder:
        try:
            # What is wrong with a template, and warnings about the deployment, are for `cdk synth` to say.
            app = _app(settings, Path(folder), quiet=True)
            stacks = app.synth(skip_validation=True, validate_on_synthesis=False).stacks
            return {stack.stack_name: dict(stack.template) for stack in stacks}
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{settings.environment!r} cannot be synthesised (see `cdk synth`): {reason}") from None


def held_to_rules(settings: Settings, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes the environment's cloud assembly to `folder`, held to the rule packs; its templates by layer.

    Raises RuntimeError when cdk-nag finds something that is not acknowledged.
    """
    _hush_jsii()
    from infra.nag import hold_to_rules

    app = _app(settings, folder, quiet=False)
    hold_to_rules(app)
    return {settings.names.layer(stack.stack_name): dict(stack.template) for stack in app.synth().stacks}


def _hush_jsii() -> None:
    """It would print a page-wide warning on every run with Node.js 20, which works."""
    os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")


def _app(settings: Settings, folder: Path, *, quiet: bool) -> "App":
    _hush_jsii()
    # Here rather than above: it starts a Node.js process, which most commands have no use for.
    from aws_cdk import App

    from infra.app import build

    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    if quiet:
        context["@aws-cdk/core:annotationsInValidationReport"] = False
    app = App(context=context, outdir=str(folder), analytics_reporting=False)
    build(app, settings)
    return app
