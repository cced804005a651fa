-- The hypertable of readings, the ledger of objects, and quarantine.

CREATE EXTENSION IF NOT EXISTS timescaledb;

CREATE TABLE telemetry (
    device_id   text             NOT NULL,
    timestamp   timestamptz      NOT NULL,
    seq         bigint           NOT NULL,
    temperature double precision,
    humidity    double precision,
    pressure    double precision,
    battery     double precision,
    extra       jsonb,
    quality     smallint         NOT NULL DEFAULT 0,
    received_at timestamptz,
    object_id   bigint           NOT NULL
);
COMMENT ON TABLE telemetry IS 'One row per reading, exactly once: unique (device_id, timestamp, seq)';
COMMENT ON COLUMN telemetry.temperature IS 'degrees Celsius';
COMMENT ON COLUMN telemetry.humidity IS 'percent relative humidity';
COMMENT ON COLUMN telemetry.pressure IS 'hPa';
COMMENT ON COLUMN telemetry.battery IS 'percent of charge';
COMMENT ON COLUMN telemetry.extra IS 'members of the reading that have no column, and originals of values of a wrong type';
COMMENT ON COLUMN telemetry.quality IS
    'bits 0-3: temperature, humidity, pressure, battery of a wrong type (value NULL); bits 4-7: out of plausible range; bit 8: no usable seq';
COMMENT ON COLUMN telemetry.received_at IS 'when AWS IoT Core received the message, stamped by the rule';
COMMENT ON COLUMN telemetry.object_id IS 'ingest.objects: the S3 object this reading came from';

-- The default index on timestamp alone would cost a fifth of the ingest rate; the unique one serves per-device queries.
SELECT create_hypertable('telemetry', by_range('timestamp', INTERVAL '1 day'), create_default_indexes => false);
CREATE UNIQUE INDEX telemetry_device_id_timestamp_seq_key ON telemetry (device_id, timestamp, seq);

CREATE TABLE ingest.objects (
    object_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket          text        NOT NULL,
    key             text        NOT NULL,
    version_id      text        NOT NULL DEFAULT '',
    size_bytes      bigint,
    status          text        NOT NULL DEFAULT 'loading' CHECK (status IN ('loading', 'loaded', 'rejected')),
    reason          text,
    readings        bigint      NOT NULL DEFAULT 0,
    rows            bigint      NOT NULL DEFAULT 0,
    duplicates      bigint      NOT NULL DEFAULT 0,
    quarantined     bigint      NOT NULL DEFAULT 0,
    first_timestamp timestamptz,
    last_timestamp  timestamptz,
    claimed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded_at       timestamptz,
    milliseconds    integer,
    UNIQUE (bucket, key, version_id),
    CHECK (readings = rows + duplicates + quarantined),
    CHECK ((status = 'rejected') = (reason IS NOT NULL))
);
COMMENT ON TABLE ingest.objects IS
    'The ledger: one row per S3 object, written in the transaction that stores its readings; loading is never visible';
COMMENT ON COLUMN ingest.objects.loaded_at IS 'last statement before the commit that made the readings visible';

CREATE TABLE ingest.quarantine (
    quarantine_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object_id      bigint REFERENCES ingest.objects,
    message_id     text,
    line           bigint,
    element        integer,
    device_id      text,
    reason         text        NOT NULL,
    raw            text        NOT NULL,
    raw_bytes      bigint      NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((object_id IS NULL) <> (message_id IS NULL)),
    UNIQUE NULLS NOT DISTINCT (object_id, message_id, line, element)
);
COMMENT ON TABLE ingest.quarantine IS 'What could not become a row, and why; the whole original stays in S3';
COMMENT ON COLUMN ingest.quarantine.message_id IS 'trace id of a message that never reached S3 because its rule action failed';
COMMENT ON COLUMN ingest.quarantine.line IS 'line of the object, from 1';
COMMENT ON COLUMN ingest.quarantine.element IS 'position in the envelope, from 0; NULL when the whole line is meant';
COMMENT ON COLUMN ingest.quarantine.raw IS 'at most 8 KiB, bytes that are not UTF-8 and NUL escaped; raw_bytes is the whole length';
CREATE INDEX quarantine_device_id_quarantined_at_idx ON ingest.quarantine (device_id, quarantined_at);
CREATE INDEX quarantine_reason_quarantined_at_idx ON ingest.quarantine (reason, quarantined_at);
