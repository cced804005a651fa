"""The actions of deployed rules that the emulator does not carry out as AWS does.

A `firehose` action it skips; what Data Firehose does is done here (delivery.py):

    deployed rule --(one republish action more)--> MQTT local/firehose/<stream>/<rule> --> spool --> gzip --> S3

In the topic of a `republish` action it reads neither substitution templates nor `$$` (republish.py):

    twin of the deployed rule --> MQTT local/republish/<rule>/<action> --> MQTT, to the topic that the rule says

The rule's SQL is evaluated by the emulator; buffering, compression and key prefix are those of the deployed stream.
"""

CLIENT_ID = "local-firehose"
"""Of the process that stands for Data Firehose."""
READY = "ready"
"""The file by which it says that it is subscribed."""
