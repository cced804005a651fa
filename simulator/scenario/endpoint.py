"""The address of an MQTT broker, as people write it."""

import re
from dataclasses import dataclass

DEFAULT_MQTT_PORT = 8883


@dataclass(frozen=True)
class Endpoint:
    """Where the broker listens for MQTT over mutual TLS."""

    host: str
    port: int = DEFAULT_MQTT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read `host`, `host:port` or `[v6]:port`, alone or after `ssl://`, `tls://` or `mqtts://`.

        Raises `ValueError` with what is right.
        """
        scheme, separator, rest = text.strip().rpartition("://")
        if separator and scheme not in {"ssl", "tls", "mqtts"}:
            raise ValueError("AWS IoT Core takes MQTT over TLS only, so write ssl://host:8883")
        match = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?/?", rest)
        port = int(match["port"] or DEFAULT_MQTT_PORT) if match else 0
        if match is None or not 0 < port < 65536:
            raise ValueError("it must be ssl://host:8883 or host:port, with a port from 1 to 65535")
        return cls(match["v6"] or match["host"], port)
