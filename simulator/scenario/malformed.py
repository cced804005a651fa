"""Payloads that are broken on purpose, each in a way that surely ends as exactly one quarantined item.

A token that is unique in the run is in every payload. In quarantine it is found again where AWS IoT's rule passes the
payload on, which it does with JSON objects. Of anything else `SELECT *` passes nothing, so that only what the rule adds
arrives, without a timestamp: those are to be matched by device and number.
https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-select.html
"""

from collections.abc import Mapping
from zlib import crc32

FORMS: Mapping[str, bytes] = {
    "not_json": b"%(token)s is not JSON",
    "not_utf8": b"\xff\xfe%(token)s",
    "truncated": b'{"readings":[{"ts":%(ts)d,"seq":0,"token":"%(token)s","temperature":2',
    "array": b'["%(token)s"]',
    "string": b'"%(token)s"',
    "number": b"%(number)d",
    "no_ts": b'{"seq":0,"temperature":20.5,"token":"%(token)s"}',
    "ts_kind": b'{"ts":{"at":%(ts)d},"seq":0,"token":"%(token)s"}',
    "ts_text": b'{"ts":"yesterday","seq":0,"token":"%(token)s"}',
    "ts_null": b'{"readings":[{"ts":null,"seq":0,"token":"%(token)s"}]}',
    "readings_text": b'{"readings":"none","token":"%(token)s"}',
    "readings_empty": b'{"readings":[],"token":"%(token)s"}',
    "reading_text": b'{"readings":["%(token)s"]}',
}
"""What is sent, by the name of the form."""


def payload(form: str, *, token: str, ts: int) -> bytes:
    """The payload of a form. A bare number has room for no token but one made of digits."""
    encoded = token.encode()
    number = 10**15 + crc32(encoded) * 10**5 + int(token.rpartition("-")[2]) % 10**5
    return FORMS[form] % {b"token": encoded, b"ts": ts, b"number": number}
