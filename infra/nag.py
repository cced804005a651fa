"""The rule packs that every environment in AWS is held to, and the exceptions, each with its reason.

https://github.com/cdklabs/cdk-nag/blob/main/RULES.md
"""

from typing import Any

from aws_cdk import Acknowledgment, App, Stack, Validations
from cdk_nag import AwsSolutionsChecks, NIST80053R5Checks
from constructs import Construct, IConstruct

OWN_POLICY = {
    "NIST.800.53.R5-IAMNoInlinePolicy": "Made for this role only; a managed policy could be attached to others."
}
"""For a role whose policy is its own."""
_PACKS = {"AwsSolutions-": "AwsSolutions", "NIST.800.53.R5-": "NIST.800.53.R5"}


def hold_to_rules(app: App) -> None:
    """Has `synth` fail on whatever breaks a rule of AWS Solutions or NIST 800-53 revision 5."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    Validations.of(app).add_plugins(NIST80053R5Checks(app))


def acknowledge(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Accepts that this construct breaks these rules, such as `AwsSolutions-IAM5[Resource::*]`, and says why.

    The reason is about this construct: what makes the rule's concern void here, or who carries the risk.
    """
    for rule, reason in reasons.items():
        pack = next(pack for prefix, pack in _PACKS.items() if rule.startswith(prefix))
        Validations.of(construct).acknowledge(Acknowledgment(id=f"{pack}::{rule}", reason=reason))


def over(scope: Construct, arn: str) -> str:
    """The finding of a statement on `arn`, which ends in a wildcard, written as cdk-nag writes ARNs with references."""
    resolved = Stack.of(scope).resolve(arn)
    parts = [resolved] if isinstance(resolved, str) else resolved["Fn::Join"][1]
    return f"AwsSolutions-IAM5[Resource::{''.join(_text(part) for part in parts)}]"


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return f"<{part['Ref']}>" if "Ref" in part else f"<{'.'.join(part['Fn::GetAtt'])}>"
