-- What was found wrong with readings: an episode per device, metric and kind, from the first reading that showed it until
-- it is resolved, and not a row per reading.

CREATE TABLE anomalies (
    anomaly_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id   text        NOT NULL CHECK (device_id <> ''),
    metric      text        CHECK (metric IN ('temperature', 'humidity', 'pressure', 'battery')),
    kind        text        NOT NULL CHECK (kind IN ('out_of_range', 'spike', 'jump', 'stuck', 'silence')),
    severity    text        NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    started_at  timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    readings    bigint      NOT NULL CHECK (readings >= 0),
    value       double precision,
    expected    double precision,
    score       double precision,
    resolved_at timestamptz,
    resolved_by text,
    metadata    jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    CHECK (last_at >= started_at),
    CHECK (resolved_at IS NOT NULL OR resolved_by IS NULL),
    CHECK ((metric IS NULL) = (kind = 'silence'))
-- Room is left in each page, so that an episode that goes on is extended in place and no index is touched (HOT).
) WITH (fillfactor = 70);
COMMENT ON TABLE anomalies IS
    'Episodes: one per device, metric and kind from the first reading that showed it until it is resolved. Written by the loader and the watch; resolved by the watch, or by hand (fleet anomalies resolve)';
COMMENT ON COLUMN anomalies.metric IS 'NULL: the device as a whole';
COMMENT ON COLUMN anomalies.severity IS 'the greatest that the episode had';
COMMENT ON COLUMN anomalies.started_at IS
    'time of the first reading that showed it, by the device''s clock; of stuck: the minute since which nothing moved, as far as was looked; of silence: when the device was last heard';
COMMENT ON COLUMN anomalies.last_at IS
    'time of the last reading that showed it; of silence: when the device was last heard, and once that is over, when it was heard again';
COMMENT ON COLUMN anomalies.detected_at IS 'when it was found';
COMMENT ON COLUMN anomalies.readings IS 'how many showed it, of those that came before it was resolved; of silence: 0';
COMMENT ON COLUMN anomalies.value IS 'of the worst reading, the one with the greatest score; of silence: how long, in seconds, so far when it was found and as a whole once it is over';
COMMENT ON COLUMN anomalies.expected IS 'what that reading was judged against; of silence: how long a device may be silent, in seconds; of stuck: NULL';
COMMENT ON COLUMN anomalies.score IS 'how far from it, in the measure of the kind';
COMMENT ON COLUMN anomalies.resolved_at IS 'NULL: it goes on, as far as is known';
COMMENT ON COLUMN anomalies.resolved_by IS
    'recovered, retired (the device is not in service any more), late (found in readings that were more than an hour old), else who resolved it';
COMMENT ON COLUMN anomalies.metadata IS
    'what the kind adds; critical_at: when it became critical after it was found; note and resolution: of who resolved it';

-- One open episode each; also the list of what is open.
CREATE UNIQUE INDEX anomalies_open_idx ON anomalies (device_id, metric, kind) NULLS NOT DISTINCT WHERE resolved_at IS NULL;
CREATE INDEX anomalies_detected_at_idx ON anomalies (detected_at);
CREATE INDEX anomalies_started_at_idx ON anomalies (started_at);
CREATE INDEX anomalies_device_id_started_at_idx ON anomalies (device_id, started_at);

-- After how long without any change a sensor is taken for stuck.
ALTER TABLE metrics ADD COLUMN stuck_after_minutes integer
    CHECK (stuck_after_minutes = 0 OR stuck_after_minutes BETWEEN 30 AND 1440);
UPDATE metrics SET stuck_after_minutes = CASE name WHEN 'battery' THEN 0 ELSE 30 END WHERE device_type IS NULL;
ALTER TABLE metrics ADD CHECK (device_type IS NOT NULL OR stuck_after_minutes IS NOT NULL);
COMMENT ON COLUMN metrics.stuck_after_minutes IS
    'How long a value may stay exactly the same before the sensor counts as stuck; 0: for ever; NULL, of a type: as the default';

CREATE OR REPLACE VIEW device_metrics AS
SELECT d.device_id, d.device_type, m.name AS metric, coalesce(o.unit, m.unit) AS unit,
       coalesce(o.low, m.low) AS low, coalesce(o.high, m.high) AS high,
       coalesce(o.description, m.description) AS description,
       coalesce(o.stuck_after_minutes, m.stuck_after_minutes) AS stuck_after_minutes
FROM devices d
JOIN metrics m ON m.device_type IS NULL
LEFT JOIN metrics o ON o.name = m.name AND o.device_type = d.device_type;

-- What is younger would be computed from raw rows as it is read, on the Community edition: of a whole fleet that takes long.
CREATE FUNCTION rollup.stored_until() RETURNS timestamptz
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF current_setting('timescaledb.license') <> 'timescale' THEN
        RETURN 'infinity';
    END IF;
    RETURN (
        SELECT _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(mat_hypertable_id))
        FROM _timescaledb_catalog.continuous_agg WHERE user_view_schema = 'rollup' AND user_view_name = 'minutes'
    );
END $$;
COMMENT ON FUNCTION rollup.stored_until() IS
    'Which buckets of telemetry_1m are read and not computed: those before this; infinity on the Apache edition, where all are';
REVOKE EXECUTE ON FUNCTION rollup.stored_until() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rollup.stored_until() TO iot_loader;

-- The loader finds them; the watch, which logs in as the loader, finds what only time shows, and what is over.
GRANT SELECT, INSERT, UPDATE ON anomalies TO iot_loader;
-- The Community edition asks it of whoever reads the view, too.
GRANT SELECT ON devices, metrics, device_metrics, telemetry_1m, rollup.minutes TO iot_loader;
