"""What a device connects with."""

from pathlib import Path
from typing import Protocol


class DeviceIdentityLike(Protocol):
    """What a device needs to connect; `certs.store.DeviceIdentity` is one."""

    @property
    def thing_name(self) -> str:
        """Also its MQTT client id."""

    @property
    def certificate_file(self) -> Path:
        """PEM."""

    @property
    def key_file(self) -> Path:
        """PEM, not encrypted."""

    @property
    def root_ca_file(self) -> Path:
        """PEM; by this the device knows the broker."""
