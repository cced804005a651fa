"""What would make a refused thing pass, by its reason: for the operator who looks at one."""

_FIX_THE_DEVICE = "its sender must be mended; discard it, or teach the parser (lambdas/processor/parse.py) and redrive"
_UNKNOWN_DEVICE = "find its sender by the time and look at what it publishes; discard it"

_HINTS = {
    # Lines, and what lies in them.
    "invalid_json": f"the line is no JSON, so the rule could add nothing to it, not even whose it is: {_UNKNOWN_DEVICE}",
    "not_a_json_object": f"JSON, but not an object, so the rule could not say whose it is: {_UNKNOWN_DEVICE}",
    "not_stamped": "it looks like a reading, but the rule did not make it: part of a message that is not JSON as a whole "
    "(a device that is broken, or one that passes itself off as another: believe nothing it says), or put into the bucket "
    "by somebody; discard it. Only if very many have it, an earlier stamp is missing from the secret "
    "(docs/security.md): add it and redrive",
    "empty": "there is nothing in it to save: discard it",
    "too_large": "longer than any message AWS IoT takes (MAX_LINE_BYTES in lambdas/shared/contract.py): discard it, or "
    "raise that limit and redrive",
    "no_device_id": "stamped, but with no usable thing name: look at the rule's SQL; discard it",
    "no_timestamp": f"no ts, so no place in time: {_FIX_THE_DEVICE}",
    "unreadable_timestamp": f"ts is neither epoch milliseconds nor ISO 8601: {_FIX_THE_DEVICE}",
    "timestamp_without_offset": f"ts could be in any time zone: {_FIX_THE_DEVICE}",
    "timestamp_in_the_future": "ahead of its arrival by more than max_future_seconds: check the device's clock; if it was "
    "right, deploy with a greater -c max_future_seconds=N and redrive",
    "timestamp_older_than_retention": "older than what is kept (or a ts in seconds instead of milliseconds): to keep it, "
    "deploy with a greater -c retention_days=N and redrive; else discard it",
    "readings_not_an_array": f"readings is not an array: {_FIX_THE_DEVICE}",
    "envelope_without_readings": "an envelope with nothing in it: discard it",
    "reading_not_an_object": f"an element of readings is not an object: {_FIX_THE_DEVICE}",
    "line_not_found": "the object has not so many lines: was it replaced in a bucket without versions? discard it",
    "element_not_found": "the line has not so many readings: was the object replaced? discard it",
    "object_archived": "restore the object (aws s3api restore-object), then redrive",
    # Objects.
    "gzip_corrupt": "its gzip is broken: restore an earlier version of the object, or put it anew, which loads by itself; "
    "then discard this one",
    "gzip_truncated": "it ends in the midst of its gzip: put the whole object anew, which loads by itself; then discard "
    "this one",
    "object_does_not_exist": "the object was gone when it was to be loaded: restore it in S3 under the same key and "
    "version and redrive, else discard it",
    # Events.
    "not_loaded": "the loader failed on it until SQS gave up: look into the loader's log, mend the cause, redrive",
    "loaded": "the object is loaded, so the event is of no more use: discard it, or redrive it (it will do nothing)",
    "rejected": "the object was rejected, so the event is of no more use: discard it, and see the object's own entry",
    "not_an_s3_event": "no event of S3, so the loader cannot read it: find out who sends to its queue, and discard it",
    # Messages.
    "rule_error_unreadable": "not the error document that an IoT rule writes: look at its text; discard it, or mend "
    "lambdas/rule_errors and redrive",
    "rule_action_failed": "the IoT rule could not hand it on: mend the cause (the stream, its role), then redrive: it is "
    "put into Firehose as the rule would have",
    "rule_error": "it could not be put into quarantine: look into the log of iot-telemetry-rule-errors, mend the cause, "
    "redrive",
}


def hint(reason: str) -> str:
    """One sentence on what to do; a reason that is not known here has none of its own."""
    return _HINTS.get(reason.partition(":")[0], "look at its text, mend the cause and redrive, or discard it")
