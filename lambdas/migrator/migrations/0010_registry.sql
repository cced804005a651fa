-- The registry: sites, devices, metrics, and the newest reading of each device.

CREATE TABLE sites (
    site_id   text PRIMARY KEY CHECK (site_id <> ''),
    name      text NOT NULL,
    customer  text,
    project   text,
    location  text,
    latitude  double precision CHECK (latitude BETWEEN -90 AND 90),
    longitude double precision CHECK (longitude BETWEEN -180 AND 180),
    CHECK (num_nulls(latitude, longitude) <> 1)
);
COMMENT ON TABLE sites IS 'Where devices stand; written by fleet devices import --sites';

CREATE TABLE devices (
    device_id     text        PRIMARY KEY CHECK (device_id <> ''),
    name          text        NOT NULL,
    site_id       text        REFERENCES sites,
    customer      text,
    project       text,
    device_type   text,
    location      text,
    latitude      double precision CHECK (latitude BETWEEN -90 AND 90),
    longitude     double precision CHECK (longitude BETWEEN -180 AND 180),
    firmware      text,
    active        boolean     NOT NULL DEFAULT true,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attributes    jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
    CHECK (num_nulls(latitude, longitude) <> 1)
);
COMMENT ON TABLE devices IS
    'Every device that is registered or ever sent a reading, so that readings can always be joined; written by fleet devices';
COMMENT ON COLUMN devices.device_id IS 'name of the thing in AWS IoT';
COMMENT ON COLUMN devices.location IS 'with firmware, also an attribute of the thing, kept in step by fleet devices';
COMMENT ON COLUMN devices.active IS 'false: taken out of service, so that its silence means nothing';
COMMENT ON COLUMN devices.registered_at IS 'when this row was made, by an import or by the first reading that was stored';
CREATE INDEX devices_site_id_idx ON devices (site_id);

CREATE TABLE metrics (
    name        text NOT NULL CHECK (name IN ('temperature', 'humidity', 'pressure', 'battery')),
    device_type text CHECK (device_type <> ''),
    unit        text NOT NULL,
    low         double precision NOT NULL,
    high        double precision NOT NULL,
    description text NOT NULL,
    UNIQUE NULLS NOT DISTINCT (name, device_type),
    CHECK (low < high)
);
COMMENT ON TABLE metrics IS
    'The columns of telemetry that are measured: unit and plausible range. Rows without a type are lambdas/shared/contract.py, by which the loader sets telemetry.quality, and change with it only; rows of a type are yours and judge what is read';
COMMENT ON COLUMN metrics.device_type IS 'NULL: whatever has no row of its own type; else devices.device_type';

INSERT INTO metrics (name, unit, low, high, description) VALUES
    ('temperature', 'degC', -60, 125, 'air temperature'),
    ('humidity', '%', 0, 100, 'relative humidity'),
    ('pressure', 'hPa', 300, 1100, 'air pressure where the device stands'),
    ('battery', '%', 0, 100, 'charge of the battery');

CREATE VIEW device_metrics AS
SELECT d.device_id, d.device_type, m.name AS metric, coalesce(o.unit, m.unit) AS unit,
       coalesce(o.low, m.low) AS low, coalesce(o.high, m.high) AS high,
       coalesce(o.description, m.description) AS description
FROM devices d
JOIN metrics m ON m.device_type IS NULL
LEFT JOIN metrics o ON o.name = m.name AND o.device_type = d.device_type;
COMMENT ON VIEW device_metrics IS 'What is plausible for each device: the row of its type, else the default';

-- Half a page is left free, so that a newer reading goes beside the one it replaces and no index is touched (HOT).
CREATE TABLE device_latest (
    device_id   text        PRIMARY KEY,
    timestamp   timestamptz NOT NULL,
    seq         bigint      NOT NULL,
    temperature real,
    humidity    real,
    pressure    real,
    battery     real,
    quality     smallint    NOT NULL,
    received_at timestamptz,
    object_id   bigint      NOT NULL,
    first_seen  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.5);
COMMENT ON TABLE device_latest IS
    'The reading of each device with the greatest (timestamp, seq), as it is in telemetry: a metric that it lacks is NULL here. Kept by the loader, in the transaction that stores the reading; it outlives the retention';
COMMENT ON COLUMN device_latest.first_seen IS
    'when AWS IoT Core received the newest reading of the first object that named the device';
COMMENT ON COLUMN device_latest.updated_at IS 'when this row was last written';

-- An inserted row is a device's first; the upserts that follow do not come here.
CREATE FUNCTION ingest.register_device() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO public.devices (device_id, name) VALUES (NEW.device_id, NEW.device_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION ingest.register_device() FROM PUBLIC;
CREATE TRIGGER register_device AFTER INSERT ON device_latest
    FOR EACH ROW EXECUTE FUNCTION ingest.register_device();
-- Checked at the commit, when the trigger has been there; only inserts are checked, so it costs a load nothing.
ALTER TABLE device_latest ADD CONSTRAINT device_latest_device_id_fkey
    FOREIGN KEY (device_id) REFERENCES devices DEFERRABLE INITIALLY DEFERRED;

-- The owner's rights, because the loader may not delete.
CREATE FUNCTION ingest.refresh_latest(devices text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    present text[];
    found   text[];
BEGIN
    -- Locked in the loader's order, and before telemetry is looked at: a loader that stored a newer reading has committed
    -- by then, or comes after us and finds its reading newer than ours.
    SELECT array_agg(device_id) INTO present FROM (
        SELECT device_id FROM public.device_latest WHERE device_id = ANY (devices)
        ORDER BY device_id COLLATE "C" FOR UPDATE
    ) locked;
    WITH newest AS (
        SELECT t.* FROM unnest(devices) AS device(device_id)
        CROSS JOIN LATERAL (
            SELECT telemetry.* FROM public.telemetry WHERE telemetry.device_id = device.device_id
            ORDER BY timestamp DESC, seq DESC LIMIT 1
        ) t
    ), stored AS (
        INSERT INTO public.device_latest AS latest
            (device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, object_id, first_seen)
        SELECT DISTINCT ON (device_id COLLATE "C")
            device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, object_id,
            coalesce(received_at, timestamp)
        FROM newest ORDER BY device_id COLLATE "C"
        ON CONFLICT (device_id) DO UPDATE SET
            timestamp = excluded.timestamp, seq = excluded.seq, temperature = excluded.temperature,
            humidity = excluded.humidity, pressure = excluded.pressure, battery = excluded.battery,
            quality = excluded.quality, received_at = excluded.received_at, object_id = excluded.object_id,
            updated_at = clock_timestamp()
        -- A row that we did not lock is that of a loader who came first with a device we did not know.
        WHERE latest.device_id = ANY (present) OR (excluded.timestamp, excluded.seq) > (latest.timestamp, latest.seq)
    )
    SELECT array_agg(device_id) INTO found FROM newest;
    DELETE FROM public.device_latest WHERE device_id = ANY (present) AND NOT device_id = ANY (coalesce(found, '{}'));
END $$;
COMMENT ON FUNCTION ingest.refresh_latest(text[]) IS
    'Makes device_latest of these devices what telemetry says, after rows were removed or replaced';
REVOKE EXECUTE ON FUNCTION ingest.refresh_latest(text[]) FROM PUBLIC;

-- What was there before: one descent of the index per device and chunk.
DO $$
DECLARE
    known text[];
BEGIN
    WITH RECURSIVE device(device_id) AS (
        (SELECT device_id FROM telemetry ORDER BY device_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT following.device_id FROM telemetry following
            WHERE following.device_id > device.device_id ORDER BY following.device_id LIMIT 1
        ) FROM device WHERE device.device_id IS NOT NULL
    )
    SELECT array_agg(device_id) INTO known FROM device WHERE device_id IS NOT NULL;
    PERFORM ingest.refresh_latest(known);
END $$;

GRANT SELECT, INSERT, UPDATE ON device_latest TO iot_loader;
GRANT EXECUTE ON FUNCTION ingest.refresh_latest(text[]) TO iot_loader;
