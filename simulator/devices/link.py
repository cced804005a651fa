"""A device's connection to the broker, as the scheduler sees it: what it asks of one, and what it is told."""

from typing import Protocol

from simulator.devices.envelope import Message


class Link(Protocol):
    """A device's connection to the broker. Every call returns at once; what comes of it is told the listener later."""

    def start(self) -> None:
        """Connect, and stay connected until `stop`; may be called again after that."""

    def publish(self, message: Message) -> None:
        """Send at QoS 1; `on_completed` is called once."""

    def send(self, topic: str, payload: bytes) -> None:
        """Publish something else than telemetry at QoS 1; `on_sent` is called once."""

    def subscribe(self, topic: str) -> None:
        """Subscribe at QoS 1; `on_sent` is called once, and `on_message` for what comes."""

    def stop(self, *, abrupt: bool = False) -> None:
        """Disconnect; abruptly means without DISCONNECT, upon which the broker publishes the last will."""


class Listener(Protocol):
    """Who is told what becomes of a link, from threads of the Common Runtime. Nothing here may wait."""

    def on_connected(self, index: int) -> None:
        """The connection has been accepted."""

    def on_refused(self, index: int, reason: str) -> None:
        """An attempt to connect has failed; another one follows by itself, unless `on_stopped` is called as well."""

    def on_disconnected(self, index: int) -> None:
        """The connection is gone; another attempt follows by itself."""

    def on_stopped(self, index: int) -> None:
        """`stop` has taken effect, or the link does not try again by itself."""

    def on_completed(self, message: Message, failure: str | None) -> None:
        """An attempt to publish has been acknowledged, or has failed for this reason."""

    def on_sent(self, index: int, failure: str | None) -> None:
        """What `send` or `subscribe` was to do has been acknowledged, or has failed for this reason."""

    def on_message(self, index: int, topic: str, payload: bytes) -> None:
        """A message has come on a subscription."""


# How AWS IoT turns away a certificate that it does not know or allow, as the Common Runtime words it.
_REFUSED_WITHOUT_ANSWER = {
    "AWS_IO_SOCKET_CLOSED",
    "AWS_ERROR_MQTT_UNEXPECTED_HANGUP",
    "AWS_IO_TLS_ERROR_ALERT_RECEIVED",
}


def error_name(error: BaseException) -> str:
    """The Common Runtime's name of an error, such as AWS_IO_SOCKET_TIMEOUT."""
    return str(getattr(error, "name", "")) or repr(error)


def refusal(error: BaseException) -> str:
    """Why an attempt to connect has failed where the broker did not say."""
    reason = error_name(error)
    if reason in _REFUSED_WITHOUT_ANSWER:
        return "closed without an answer: not registered, not active, or not allowed by its policy"
    return reason
