"""What Data Firehose does, for the deployed streams of the emulator, which itself skips a rule's firehose action.

    deployed rule --(one republish action more)--> MQTT local/firehose/<stream>/<rule> --> spool --> gzip --> S3

The rule's SQL is evaluated by the emulator; buffering, compression and key prefix are those of the deployed stream.
"""
