"""How an MQTT 5 client of the AWS Common Runtime is told to publish: the short way where it is there, else the public one.

`awscrt.mqtt5.Client.publish` makes a Future, three closures and four objects for each message, which cost more than the
message itself. What it calls underneath takes a callback; that is private, so it is used only where the installed
version's own `publish` calls it in exactly the way that we do.
"""

import ast
import ctypes
import inspect
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from awscrt import exceptions, mqtt5

from simulator.devices.envelope import Message
from simulator.devices.link import Listener, error_name

_EXPECTED = (
    "self._binding",
    "publish_packet.qos",
    "publish_packet.payload",
    "publish_packet.retain",
    "publish_packet.topic",
    "publish_packet.payload_format_indicator",
    "publish_packet.message_expiry_interval_sec",
    "publish_packet.topic_alias",
    "publish_packet.response_topic",
    "publish_packet.correlation_data_bytes or publish_packet.correlation_data",
    "publish_packet.content_type",
    "publish_packet.user_properties",
    "puback",
)
_EXPECTED_CALLBACK = ("error_code", "qos", "reason_code", "reason_string", "user_properties_tuples")
_QOS = mqtt5.QoS.AT_LEAST_ONCE

_this_thread = threading.local()


class Publish(Protocol):
    """Sends a message at QoS 1; the listener is told once what came of it."""

    def __call__(self, message: Message, /) -> None: ...


def publisher(client: mqtt5.Client, topic: str, listener: Listener) -> Publish:
    """The quickest way that the installed awscrt has."""
    send = private_publish()
    return public(client, topic, listener) if send is None else _private(send, client, topic, listener)


def public(client: mqtt5.Client, topic: str, listener: Listener) -> Publish:
    """By awscrt's documented interface."""

    def publish(message: Message) -> None:
        packet = mqtt5.PublishPacket(topic=topic, payload=message.payload, qos=_QOS)
        try:
            future = client.publish(packet)
        except Exception as error:  # awscrt raises AwsCrtError, RuntimeError and OSError alike
            listener.on_completed(message, error_name(error))
            return
        future.add_done_callback(partial(_future_done, listener, message))

    return publish


def _private(send: Callable[..., None], client: mqtt5.Client, topic: str, listener: Listener) -> Publish:
    binding, on_completed = client._binding, listener.on_completed

    def publish(message: Message) -> None:
        done = partial(_acknowledged, on_completed, message)
        try:
            send(binding, _QOS, message.payload, False, topic, None, None, None, None, None, None, None, done)
        except Exception as error:
            on_completed(message, error_name(error))

    return publish


def _find_private_publish() -> Callable[..., None] | None:
    """`_awscrt.mqtt5_client_publish`, if this version calls it as we do."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(mqtt5.Client.publish)))
        function: Callable[..., None] = mqtt5._awscrt.mqtt5_client_publish
    except (OSError, TypeError, SyntaxError, AttributeError):
        return None
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef) and node.name == "puback":
            if tuple(argument.arg for argument in node.args.args) != _EXPECTED_CALLBACK:
                return None
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_awscrt.mqtt5_client_publish":
            found = tuple(ast.unparse(argument) for argument in node.args)
            if found != _EXPECTED or node.keywords:
                return None
            return function
    return None


_PRIVATE_PUBLISH = _find_private_publish()


def private_publish() -> Callable[..., None] | None:
    """The private function, or None where it is not what we know."""
    return _PRIVATE_PUBLISH


def _acknowledged(
    on_completed: Callable[[Message, str | None], None],
    message: Message,
    error_code: int,
    _qos: int,
    reason_code: int | None,
    _reason: str | None,
    _properties: object,
) -> None:
    if error_code:
        on_completed(message, error_name(exceptions.from_code(error_code)))
    else:
        on_completed(message, _puback_failure(reason_code))


def _future_done(listener: Listener, message: Message, future: "Future[mqtt5.PublishCompletionData]") -> None:
    error = future.exception()
    if error is not None:
        listener.on_completed(message, error_name(error))
    else:
        listener.on_completed(message, _puback_failure(future.result().puback.reason_code))


def _puback_failure(reason_code: int | None) -> str | None:
    # Below 0x80 the broker has it: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901124
    if reason_code is not None and reason_code < 0x80:
        return None
    try:
        return f"PUBACK {mqtt5.PubackReasonCode(reason_code).name}"
    except ValueError:
        return "PUBACK of an unknown reason"


def keep_thread_state() -> None:
    """Keep Python's state of this Common Runtime thread between callbacks.

    Each callback from C otherwise creates and destroys one, which costs more than the callback itself. An unpaired
    `PyGILState_Ensure` is enough; what it leaves behind when the thread ends is a few hundred bytes per run.
    """
    if not hasattr(_this_thread, "kept"):
        _this_thread.kept = True
        ctypes.pythonapi.PyGILState_Ensure()
