-- What the loader knows of duplicates per device and hour, and what is usual for each device.

CREATE TABLE ingest.duplicates (
    object_id  bigint      NOT NULL REFERENCES ingest.objects ON DELETE CASCADE,
    device_id  text        NOT NULL,
    hour       timestamptz NOT NULL,
    duplicates integer     NOT NULL CHECK (duplicates > 0),
    PRIMARY KEY (object_id, device_id, hour)
);
COMMENT ON TABLE ingest.duplicates IS
    'Readings of an object that were there already, per device and hour of their timestamps; their sum is ingest.objects.duplicates, for objects loaded since this table is there';
CREATE INDEX duplicates_hour_device_id_idx ON ingest.duplicates (hour, device_id);

-- Written once a minute for a device that sends: beside the row that it replaces, with no index touched (HOT).
CREATE TABLE ingest.detector (
    device_id  text        PRIMARY KEY,
    state      bytea       NOT NULL,
    seen       timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE ingest.detector IS
    'What is usual for each device, by which the loader finds spikes and jumps (lambdas/processor/detection); delete a row, and it is learnt anew';
COMMENT ON COLUMN ingest.detector.seen IS 'timestamp of the newest reading in it; a minute behind a loader that runs';

GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.duplicates TO iot_loader;
GRANT SELECT, INSERT, UPDATE ON ingest.detector TO iot_loader;
