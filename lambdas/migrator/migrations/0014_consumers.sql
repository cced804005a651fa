-- Who reads what is kept, and who works on it: groups that rights are granted to, logins that rotate, and the schema scada,
-- an interface that does not change (docs/consumers.md).

DO $$
DECLARE
    missing text;
BEGIN
    FOREACH missing IN ARRAY ARRAY['iot_reader', 'iot_scada', 'iot_operator', 'grafana', 'scada'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = missing) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', missing);
        END IF;
    END LOOP;
END $$;

-- Logins. The migrator lets them log in, with the passwords of their secrets and their share of the connections, where the
-- deployment asks for them; the second login of each, which takes turns with it, is made then. That they only read is for
-- the grants to see to: the settings keep an honest client from a mistake, and the loader from its endless query.
GRANT iot_reader TO grafana;
GRANT iot_scada TO scada;
DO $$
DECLARE
    login   text;
    seconds integer;
BEGIN
    FOR login, seconds IN VALUES ('grafana', 30), ('scada', 10) LOOP
        EXECUTE format('ALTER ROLE %I CONNECTION LIMIT 10', login);
        EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', login);
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', login, seconds || 's');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', login, 2 * seconds || 's');
    END LOOP;
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO iot_reader, iot_scada', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO iot_operator', current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- The interface for SCADA and historians. The views read with the rights of their owner, who owns the tables too, so that
-- whoever uses them needs none on what lies beneath. They hide columns and no rows: no security barrier, which would keep
-- a filter from the index.
CREATE SCHEMA scada;
COMMENT ON SCHEMA scada IS 'What SCADA systems and historians read; names, types and meaning of these columns do not change';

CREATE VIEW scada.latest_wide AS
SELECT l.device_id, d.name, d.site_id, s.name AS site, l.timestamp, l.temperature, l.humidity, l.pressure, l.battery,
       l.quality & 255 = 0 AS quality_ok,
       extract(epoch FROM statement_timestamp() - l.timestamp)::double precision AS age_seconds
FROM public.device_latest l
JOIN public.devices d USING (device_id)
LEFT JOIN public.sites s USING (site_id);
COMMENT ON VIEW scada.latest_wide IS 'The newest reading of every device that ever sent one';
COMMENT ON COLUMN scada.latest_wide.quality_ok IS 'false: one of the values is of a wrong type (and NULL), or out of its plausible range';
COMMENT ON COLUMN scada.latest_wide.age_seconds IS 'since the device took it; negative when the device''s clock is ahead';

CREATE VIEW scada.latest AS
SELECT l.device_id, m.metric, m.unit, l.timestamp,
       CASE m.metric WHEN 'temperature' THEN l.temperature WHEN 'humidity' THEN l.humidity
                     WHEN 'pressure' THEN l.pressure WHEN 'battery' THEN l.battery END AS value,
       l.quality & CASE m.metric WHEN 'temperature' THEN 17 WHEN 'humidity' THEN 34
                                 WHEN 'pressure' THEN 68 WHEN 'battery' THEN 136 END = 0 AS quality_ok
FROM public.device_latest l
JOIN public.device_metrics m USING (device_id);
COMMENT ON VIEW scada.latest IS
    'The same by metric, a row for each metric of each device; value is NULL where the newest reading has none';
COMMENT ON COLUMN scada.latest.quality_ok IS 'false: the value is of a wrong type (and NULL), or out of its plausible range';

CREATE VIEW scada.history_wide AS
SELECT device_id, timestamp, temperature, humidity, pressure, battery, quality & 255 = 0 AS quality_ok
FROM public.telemetry;
COMMENT ON VIEW scada.history_wide IS 'Every reading that is kept';

-- One branch per metric: a filter by metric leaves one, and a filter by device and time reaches the index of each.
CREATE VIEW scada.history AS
SELECT device_id, 'temperature'::text AS metric, timestamp, temperature AS value, quality & 17 = 0 AS quality_ok
FROM public.telemetry WHERE temperature IS NOT NULL OR quality & 17 <> 0
UNION ALL
SELECT device_id, 'humidity', timestamp, humidity, quality & 34 = 0
FROM public.telemetry WHERE humidity IS NOT NULL OR quality & 34 <> 0
UNION ALL
SELECT device_id, 'pressure', timestamp, pressure, quality & 68 = 0
FROM public.telemetry WHERE pressure IS NOT NULL OR quality & 68 <> 0
UNION ALL
SELECT device_id, 'battery', timestamp, battery, quality & 136 = 0
FROM public.telemetry WHERE battery IS NOT NULL OR quality & 136 <> 0;
COMMENT ON VIEW scada.history IS 'The same by metric, a row for each value that was sent; value is NULL where it was of a wrong type';

CREATE VIEW scada.hourly AS
SELECT device_id, 'temperature'::text AS metric, bucket, avg_temp AS average, min_temp AS minimum, max_temp AS maximum,
       count_temp AS count
FROM public.telemetry_hourly WHERE count_temp > 0
UNION ALL
SELECT device_id, 'humidity', bucket, avg_humidity, min_humidity, max_humidity, count_humidity
FROM public.telemetry_hourly WHERE count_humidity > 0
UNION ALL
SELECT device_id, 'pressure', bucket, avg_pressure, min_pressure, max_pressure, count_pressure
FROM public.telemetry_hourly WHERE count_pressure > 0
UNION ALL
SELECT device_id, 'battery', bucket, avg_battery, min_battery, max_battery, count_battery
FROM public.telemetry_hourly WHERE count_battery > 0;
COMMENT ON VIEW scada.hourly IS 'Average, minimum, maximum and number of values per device, metric and hour (UTC)';

GRANT USAGE ON SCHEMA scada TO iot_scada, iot_reader;
GRANT SELECT ON scada.latest_wide, scada.latest, scada.history_wide, scada.history, scada.hourly TO iot_scada, iot_reader;

-- A function may be called by everybody unless it is said otherwise. Those in views run as whoever reads the view.
DO $$
DECLARE
    each regprocedure;
BEGIN
    FOR each IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace IN ('public'::regnamespace, 'ingest'::regnamespace, 'rollup'::regnamespace)
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', each);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION rollup.grace() TO iot_loader, iot_reader;
GRANT EXECUTE ON FUNCTION rollup.moments(double precision), rollup.combined(double precision[]) TO iot_loader, iot_reader, iot_scada;

-- Jobs run with nobody watching: TimescaleDB lets every login schedule them, and only a superuser may change that.
DO $$
DECLARE
    each regprocedure;
BEGIN
    FOR each IN SELECT oid FROM pg_proc WHERE proname = 'add_job' AND pronamespace = 'public'::regnamespace LOOP
        IF pg_has_role((SELECT proowner FROM pg_proc WHERE oid = each), 'USAGE') THEN
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', each);
        END IF;
    END LOOP;
END $$;

-- Analysts and dashboards: all that was measured, what became of it on its way, and how fresh it is. Not the texts of what
-- was refused: a device can write anything there.
GRANT USAGE ON SCHEMA public, ingest, rollup TO iot_reader;
GRANT SELECT ON
    telemetry, telemetry_1m, telemetry_hourly, telemetry_daily, telemetry_weekly,
    device_latest, devices, device_types, sites, metrics, device_metrics, anomalies, data_quality,
    ingest.objects, ingest.duplicates, ingest.touched, ingest.refusals, ingest.announced_again, ingest.whole_sweep,
    ingest.devices_seen, ingest.settings, ingest.migrations, rollup.waiting, rollup.levels
TO iot_reader;
GRANT SELECT (
    quarantine_id, object_id, message_id, line, element, device_id, reason, raw_bytes, quarantined_at, received_at,
    resolution, resolved_at, resolved_by, note
) ON ingest.quarantine TO iot_reader;
GRANT EXECUTE ON FUNCTION
    ingest.client_connections(), ingest.unarchived_wal_seconds(), rollup.stored_until(),
    data_quality_score(bigint, bigint, bigint, double precision),
    data_quality_reason(bigint, bigint, bigint, bigint, double precision),
    metric_series(text, text, timestamptz, timestamptz, interval), trend_slope(text, text, timestamptz, timestamptz),
    moving_average(text, text, timestamptz, timestamptz, interval, integer),
    change_against_previous(text, text, timestamptz, timestamptz)
TO iot_reader;

-- Operators: what the fleet commands do, but for rebuild, which fills an empty database as its owner. They load as the
-- loader does (redrive, replay), and remove what they load again (replay --force): the original stays in S3.
GRANT iot_reader, iot_loader TO iot_operator;
GRANT SELECT, UPDATE, DELETE ON ingest.quarantine TO iot_operator;
GRANT DELETE ON telemetry, ingest.detector TO iot_operator;
GRANT INSERT, UPDATE ON devices, sites TO iot_operator;
GRANT INSERT, UPDATE, DELETE ON metrics, device_types TO iot_operator;
