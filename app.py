#!/usr/bin/env python3
"""The CDK entry point: `cdk synth -c env=NAME`. Needs no AWS credentials and calls nothing while it synthesises."""

import os
import sys

# jsii would print a page-wide warning on every run with Node.js 20, which Debian and Ubuntu still ship and which works.
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")

from aws_cdk import App

from infra.app import build
from infra.nag import hold_to_rules
from infra.settings import Settings, load
from ops.errors import UserError


def main() -> None:
    """Synthesises the environment that `-c env=NAME` names, or says in one line why not."""
    app = App()
    overrides = {
        name: str(value)
        for name in Settings.__struct_fields__
        if name != "environment" and (value := app.node.try_get_context(name)) is not None
    }
    try:
        settings = load(app.node.try_get_context("env"), overrides)
        build(app, settings)
    except UserError as error:
        sys.exit(f"fleetledger: {error}")
    if settings.hold_to_rules:
        hold_to_rules(app)
    try:
        app.synth()
    except RuntimeError as error:
        # jsii's: the findings have been printed, and the trace would be its own, not ours.
        sys.exit(f"fleetledger: {str(error).partition(chr(10))[0]}")


if __name__ == "__main__":
    main()
