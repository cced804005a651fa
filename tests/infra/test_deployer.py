"""Deployment from GitHub: who may take on which role, and that the workflows ask for no more."""

import re
from typing import Any

import pytest
import yaml

from ops.errors import UserError
from ops.paths import ROOT
from tests.infra.templates import Synthesised, statements, synthesised
from tests.infra.test_ingest import text

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ISSUER = "token.actions.githubusercontent.com"


def deployer(environment: str = "prod", repository: str = "acme/fleet") -> Synthesised:
    return synthesised(environment, github_repository=repository).of("deployer")


@pytest.mark.parametrize("repository", ["acme/fleet", "acme@12/fleet@34"])
def test_only_the_environments_own_jobs_of_the_repository_may_take_on_its_roles(repository: str) -> None:
    template = deployer("staging", repository)
    trusted = {}
    for role in template.of_type("AWS::IAM::Role").values():
        [trust] = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
        assert text(trust["Principal"]["Federated"]).endswith(f":oidc-provider/{ISSUER}")
        conditions = trust["Condition"]["StringEquals"]
        assert conditions[f"{ISSUER}:aud"] == "sts.amazonaws.com"
        [trusted_subject] = conditions[f"{ISSUER}:sub"]
        trusted[trusted_subject] = role
    assert trusted.keys() == {f"repo:{repository}:environment:staging", f"repo:{repository}:environment:staging-diff"}


def test_the_roles_may_take_on_the_bootstraps_roles_and_nothing_else() -> None:
    template = deployer()
    may = {}
    for name, role in template.of_type("AWS::IAM::Role").items():
        granted = statements(template, name)
        assert granted.keys() == {"sts:AssumeRole"}
        purpose = role["Properties"]["Description"].split()[0]
        may[purpose] = {
            re.sub(r".*:role/cdk-hnb659fds-([a-z-]+)-role-.*", r"\1", text(arn)) for arn in granted["sts:AssumeRole"]
        }
    assert may == {"Deploys": {"deploy", "file-publishing", "lookup"}, "Reads": {"lookup"}}


def test_with_a_copy_in_another_region_that_one_is_deployed_and_looked_at_too() -> None:
    template = synthesised(
        "prod",
        github_repository="acme/fleet",
        account="111122223333",
        region="eu-west-1",
        replica_region="eu-central-1",
    ).of("deployer")
    for role in template.of_type("AWS::IAM::Role"):
        arns = [text(arn) for arn in statements(template, role)["sts:AssumeRole"]]
        here, there = (
            {arn.removesuffix(region) for arn in arns if arn.endswith(region)}
            for region in ("-<AWS::Region>", "-eu-central-1")
        )
        assert here == there
        assert len(arns) == 2 * len(here) > 0


def test_no_deployer_without_a_repository_and_a_repository_is_owner_and_name() -> None:
    assert "deployer" not in synthesised("prod").stacks
    with pytest.raises(UserError, match="github_repository is 'fleet'"):
        deployer(repository="fleet")


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}: {name}", job)
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    ]


def test_actions_of_others_are_pinned_to_a_commit() -> None:
    used = [step["uses"] for _, job in jobs() for step in job.get("steps", []) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action


def test_only_jobs_in_a_github_environment_get_an_identity() -> None:
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    for name, job in jobs():
        steps = [step.get("uses", "") for step in job.get("steps", [])]
        credentials = [
            i for i, action in enumerate(steps) if action.startswith("aws-actions/configure-aws-credentials@")
        ]
        if not credentials:
            assert "uses" in job or "permissions" not in job, name
            continue
        assert job["environment"], name
        assert job["permissions"] == {"contents": "read", "id-token": "write"}
        [position] = credentials
        # What a package runs while it is installed cannot use credentials that are not there yet.
        assert {"run": "make setup"} in job["steps"][:position], name


def test_prod_is_deployed_last_and_only_from_main_after_the_checks() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())
    stages = {name: job for name, job in workflow["jobs"].items() if "uses" in job}
    assert list(stages) == ["dev", "staging", "prod"]
    assert stages["dev"]["needs"] == ["check", "synth"]
    assert "github.event_name == 'push'" in stages["dev"]["if"]
    assert stages["staging"]["needs"] == "dev"
    assert stages["prod"]["needs"] == "staging"
    assert all(job["with"] == {"environment": name} for name, job in stages.items())
    # YAML reads the key `on` as true.
    assert workflow[True]["push"] == {"branches": ["main"]}


def test_every_environment_is_synthesised_and_compared() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())
    for name in ("synth", "diff"):
        assert workflow["jobs"][name]["strategy"]["matrix"]["environment"] == ["dev", "staging", "prod"]
    assert "head.repo.full_name == github.repository" in workflow["jobs"]["diff"]["if"]


def test_a_step_fails_with_any_part_of_its_pipes() -> None:
    # https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstepsshell
    piped = [(name, step) for name, job in jobs() for step in job.get("steps", []) if " | " in step.get("run", "")]
    assert piped
    for name, step in piped:
        assert step.get("shell") == "bash", name
