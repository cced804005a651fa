"""User data of an instance that prepares itself anew at every boot."""

from collections.abc import Mapping

_BOUNDARY = "==fleetledger=="
ENVIRONMENT_FILE = "/etc/fleetledger/instance.env"


def boot_script(environment: Mapping[str, str], start: str) -> str:
    """User data that writes `environment` to a file and then runs the script `start`, at every boot.

    cloud-init runs user data once in an instance's life unless told otherwise. At every boot, CloudFormation's way of
    changing user data (stop, change, start) applies the change:
    https://repost.aws/knowledge-center/execute-user-data-ec2

    No secrets belong here: user data can be read by whoever may describe the instance.
    """
    lines = [f"{name}='{value}'" for name, value in environment.items()]
    write = "\n".join(
        [
            "#!/bin/bash",
            "set -eu",
            f"install -d -m 0755 {ENVIRONMENT_FILE.rpartition('/')[0]}",
            f"install -m 0644 /dev/null {ENVIRONMENT_FILE}",
            f"cat > {ENVIRONMENT_FILE} <<'END'",
            *lines,
            "END",
        ]
    )
    always = "#cloud-config\ncloud_final_modules:\n  - [scripts-user, always]"
    # cloud-init runs the scripts in the order of their names.
    parts = [
        _part("text/cloud-config", "always.cfg", always),
        _part("text/x-shellscript", "10-environment", write),
        _part("text/x-shellscript", "20-start", start),
    ]
    head = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{_BOUNDARY}"\n'
    return "\n".join([head, *parts, f"--{_BOUNDARY}--", ""])


def _part(kind: str, name: str, body: str) -> str:
    return (
        f'--{_BOUNDARY}\nContent-Type: {kind}; charset="utf-8"\nContent-Transfer-Encoding: 8bit\n'
        f'Content-Disposition: attachment; filename="{name}"\n\n{body.rstrip()}\n'
    )
