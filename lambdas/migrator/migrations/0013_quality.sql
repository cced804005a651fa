-- How good the data are, per device and day: expected against received, what was wrong, and one number with its reasons.
-- And trends of a metric, read from the rollups.

ALTER TABLE devices ADD COLUMN reading_interval_seconds real
    CHECK (reading_interval_seconds > 0 AND reading_interval_seconds < 'infinity');
COMMENT ON COLUMN devices.reading_interval_seconds IS
    'Time between two readings, from which data_quality knows how many there should be; NULL: that of its type';

CREATE TABLE device_types (
    device_type              text PRIMARY KEY CHECK (device_type <> ''),
    reading_interval_seconds real CHECK (reading_interval_seconds > 0 AND reading_interval_seconds < 'infinity'),
    description              text
);
COMMENT ON TABLE device_types IS 'What devices of a type have in common; rows are yours, and a type needs none';
COMMENT ON COLUMN device_types.reading_interval_seconds IS 'of devices that have none of their own; NULL: not known';

-- One way to take a device out of service, and back: devices.active. The watch knows it by ingest.devices_seen, where a
-- device that was never heard of has no row and needs none.
CREATE FUNCTION ingest.retire_device() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.active THEN
        UPDATE ingest.devices_seen SET retired_at = NULL WHERE device_id = NEW.device_id AND retired_at IS NOT NULL;
    ELSE
        INSERT INTO ingest.devices_seen AS seen (device_id, last_seen, retired_at)
        SELECT device_id, least(coalesce(received_at, timestamp), now()), clock_timestamp()
        FROM public.device_latest WHERE device_id = NEW.device_id
        ON CONFLICT (device_id) DO UPDATE SET retired_at = excluded.retired_at;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ingest.retire_device() IS 'Sets ingest.devices_seen.retired_at as devices.active says';
REVOKE EXECUTE ON FUNCTION ingest.retire_device() FROM PUBLIC;
COMMENT ON COLUMN devices.active IS
    'false: taken out of service, so that its silence means nothing; ingest.devices_seen.retired_at follows';

-- What was said in only one of the two places before this. A device that sent again after it was retired is counted.
INSERT INTO ingest.devices_seen AS seen (device_id, last_seen, retired_at)
SELECT device_id, least(coalesce(l.received_at, l.timestamp), now()), clock_timestamp()
FROM devices d JOIN device_latest l USING (device_id) WHERE NOT d.active
ON CONFLICT (device_id) DO UPDATE SET retired_at = coalesce(seen.retired_at, excluded.retired_at);
UPDATE devices d SET active = false FROM ingest.devices_seen s
WHERE s.device_id = d.device_id AND s.retired_at >= s.last_seen AND d.active;
CREATE TRIGGER retire_device AFTER UPDATE OF active ON devices
    FOR EACH ROW WHEN (OLD.active <> NEW.active) EXECUTE FUNCTION ingest.retire_device();

CREATE FUNCTION data_quality_score(
    expected bigint, received bigint, out_of_range bigint, anomalous double precision
) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN received > 0 THEN greatest(0,
        100
        - 30 * greatest(0, 1 - received / greatest(coalesce(expected, 0), received)::double precision)
        - 40 * least(1, greatest(0, coalesce(out_of_range, 0)) / received::double precision)
        - 30 * least(1, greatest(0, coalesce(anomalous, 0)) / received::double precision)
    ) ELSE 0 END
    $$;
COMMENT ON FUNCTION data_quality_score(bigint, bigint, bigint, double precision) IS
    '100 less 30 for the share of expected readings that is missing, 40 for the share of those received that is invalid or out of range, 30 for the share that anomalies concern; 0 when nothing was received. NULL counts as 0, and an expected one as what was received';

CREATE FUNCTION data_quality_reason(
    expected bigint, received bigint, invalid bigint, out_of_range bigint, anomalous double precision
) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    number  constant text := 'FM999,999,999,990';
    costs   double precision[];
    reasons text[];
BEGIN
    IF received IS NULL OR received <= 0 THEN
        RETURN CASE WHEN expected > 0 THEN format('nothing of %s came', to_char(expected, number)) ELSE 'nothing came' END;
    END IF;
    IF expected > received THEN
        costs := ARRAY[30 * (1 - received / expected::double precision)];
        reasons := ARRAY[format('missing %s of %s', to_char(expected - received, number), to_char(expected, number))];
    END IF;
    IF out_of_range > 0 THEN
        costs := costs || 40 * out_of_range / received::double precision;
        reasons := reasons || (to_char(out_of_range, number) || ' out of range');
    END IF;
    IF invalid > 0 THEN
        costs := costs || 40 * invalid / received::double precision;
        reasons := reasons || (to_char(invalid, number) || ' of a wrong type');
    END IF;
    IF anomalous > 0 THEN
        costs := costs || 30 * anomalous / received::double precision;
        reasons := reasons || (to_char(greatest(1, anomalous), number) || ' in anomalies');
    END IF;
    IF cardinality(reasons) < 2 THEN
        RETURN reasons[1];
    END IF;
    RETURN coalesce((SELECT string_agg(reason, '; ' ORDER BY cost DESC, place)
        FROM unnest(costs, reasons) WITH ORDINALITY AS parts(cost, reason, place)), '');
END $$;
COMMENT ON FUNCTION data_quality_reason(bigint, bigint, bigint, bigint, double precision) IS
    'What cost points, the worst first; empty when nothing did';

-- Episodes that are over, by the time that they took. Nothing in it changes while an episode goes on, so that the loader
-- still extends one in place.
CREATE INDEX anomalies_resolved_idx ON anomalies
    USING gist (tstzrange(started_at, greatest(started_at, resolved_at), '[]')) WHERE resolved_at IS NOT NULL;

-- A day at a time, from the index, so that a range of days reads those days only: no condition on `day` could be turned
-- into one on `bucket`. The grouping by device keeps the planner from reading every day for a join of all at once.
DO $$
DECLARE
    community constant boolean := current_setting('timescaledb.license') = 'timescale';
    calendar  constant text := $sql$
        SELECT day, day::timestamp AT TIME ZONE 'UTC' AS midnight, (day + 1)::timestamp AT TIME ZONE 'UTC' AS next_midnight
        FROM (
            SELECT (now() AT TIME ZONE 'UTC')::date - back AS day
            FROM generate_series(-1, (SELECT rollup_retention_days FROM ingest.settings) + 1) back
        ) days
        $sql$;
    per_day   constant text := $sql$
        SELECT c.day, q.device_id, q.received, q.invalid, q.out_of_range, q.late, q.duplicates, q.anomalies, q.anomalous,
               CASE WHEN q.service_seconds > 0 AND q.interval_seconds IS NOT NULL
                        THEN floor(q.service_seconds / q.interval_seconds)::bigint
                    -- A counter that began anew says nothing, and so does a reading without one, which has 0.
                    WHEN (q.first_seq > 1 OR (q.first_seq = 1 AND q.first_day))
                        AND q.last_seq - q.first_seq + 1 BETWEEN q.received AND q.received + 1000000
                        THEN q.last_seq - q.first_seq + 1
                    ELSE q.received END AS expected
        FROM (%1$s) c
        CROSS JOIN LATERAL (
            SELECT d.device_id,
                   coalesce(sum(t.reading_count), 0)::bigint AS received, coalesce(sum(t.invalid_count), 0)::bigint AS invalid,
                   coalesce(sum(t.out_of_range_count), 0)::bigint AS out_of_range,
                   coalesce(sum(t.late_count), 0)::bigint AS late, min(t.first_seq) AS first_seq, max(t.last_seq) AS last_seq,
                   coalesce(max(u.duplicates), 0)::bigint AS duplicates, coalesce(max(a.anomalies), 0)::bigint AS anomalies,
                   coalesce(max(a.anomalous), 0) AS anomalous,
                   coalesce(d.reading_interval_seconds, max(y.reading_interval_seconds)) AS interval_seconds,
                   d.registered_at >= c.midnight AS first_day,
                   -- When it was in service before it was registered is not known. What was taken in the last five minutes
                   -- may still be on its way, and is late after that.
                   CASE WHEN d.registered_at < c.next_midnight THEN extract(epoch FROM
                       least(c.next_midnight, now() - interval '5 minutes', max(s.retired_at))
                       - greatest(c.midnight, d.registered_at))::double precision END AS service_seconds,
                   d.active OR max(s.retired_at) > c.midnight AS in_service
            FROM public.devices d
            LEFT JOIN (%2$s) t ON t.device_id = d.device_id AND t.bucket = c.midnight
            LEFT JOIN public.device_types y ON y.device_type = d.device_type
            LEFT JOIN ingest.devices_seen s ON s.device_id = d.device_id
            LEFT JOIN (
                SELECT device_id, sum(duplicates) AS duplicates FROM ingest.duplicates
                WHERE hour >= c.midnight AND hour < c.next_midnight GROUP BY device_id
            ) u ON u.device_id = d.device_id
            LEFT JOIN (
                SELECT device_id, count(*) AS anomalies,
                       sum(CASE WHEN kind IN ('out_of_range', 'silence') THEN 0
                                WHEN last_at = started_at THEN readings
                                ELSE readings * extract(epoch FROM least(last_at, c.next_midnight) - greatest(started_at, c.midnight))
                                    / extract(epoch FROM last_at - started_at) END)::double precision AS anomalous
                FROM (
                    SELECT * FROM public.anomalies WHERE resolved_at IS NULL
                        AND started_at < c.next_midnight AND (last_at >= c.midnight OR kind = 'silence')
                    UNION ALL
                    SELECT * FROM public.anomalies WHERE resolved_at IS NOT NULL
                        AND tstzrange(started_at, greatest(started_at, resolved_at), '[]')
                            && tstzrange(c.midnight, c.next_midnight, '[)')
                        AND last_at >= c.midnight
                ) episodes GROUP BY device_id
            ) a ON a.device_id = d.device_id
            GROUP BY d.device_id
        ) q
        WHERE (q.received > 0 OR (
            q.in_service AND q.service_seconds >= coalesce(q.interval_seconds, 0.001) AND q.service_seconds > 0
        )) AND %3$s
        $sql$;
    columns   constant text := 'device_id, bucket, reading_count, invalid_count, out_of_range_count, late_count, first_seq, last_seq';
    watermark text;
    stored    text;
    found     text;
BEGIN
    IF community THEN
        -- Days that are materialized are read from where they lie: the view would compute today's for each of them.
        SELECT format('SELECT %s FROM %I.%I', columns, materialization_hypertable_schema, materialization_hypertable_name),
               format('coalesce(_timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(%s)), ''-infinity'')',
                   (SELECT id FROM _timescaledb_catalog.hypertable
                    WHERE schema_name = materialization_hypertable_schema AND table_name = materialization_hypertable_name))
        INTO stored, watermark
        FROM timescaledb_information.continuous_aggregates WHERE view_schema = 'rollup' AND view_name = 'days';
        found := format(per_day, calendar, stored, 'c.midnight < ' || watermark) || ' UNION ALL '
            || format(per_day, calendar, 'SELECT ' || columns || ' FROM public.telemetry_daily', 'c.midnight >= ' || watermark);
    ELSE
        found := format(per_day, calendar, 'SELECT ' || columns || ' FROM public.telemetry_daily', 'true');
    END IF;
    EXECUTE format($sql$
        CREATE VIEW data_quality AS
        SELECT day, device_id, expected, received, greatest(expected - received, 0) AS missing, invalid, out_of_range, late,
               duplicates, anomalies,
               public.data_quality_score(expected, received, invalid + out_of_range, anomalous) AS score,
               CASE WHEN received > 0 AND expected <= received AND invalid + out_of_range = 0 AND anomalous = 0 THEN ''
                    ELSE public.data_quality_reason(expected, received, invalid, out_of_range, anomalous) END AS reason
        FROM (%s) found
        $sql$, found);
END $$;
COMMENT ON VIEW data_quality IS
    'Per device and UTC day: how many readings there should be, how many there are, what was wrong with them, and a score from 0 to 100 with its reasons. A device in service that sent nothing has a row with received 0';
COMMENT ON COLUMN data_quality.expected IS
    'Seconds in service (today: until five minutes ago) by the interval of the device, else of its type; without one, as the sequence numbers say; else what was received';
COMMENT ON COLUMN data_quality.anomalies IS 'Episodes that overlap the day, of every kind';

-- Trends. Averages of buckets are weighted by how many values each is made of.
CREATE FUNCTION metric_series(device text, metric text, "from" timestamptz, "to" timestamptz, step interval DEFAULT NULL)
    RETURNS TABLE (bucket timestamptz, average double precision, readings bigint) LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    source text;
    short  constant text := CASE metric WHEN 'temperature' THEN 'temp' ELSE metric END;
    day    constant interval := interval '1 day';
BEGIN
    IF metric IS NULL OR NOT EXISTS (SELECT FROM public.metrics m WHERE m.name = metric_series.metric) THEN
        RAISE EXCEPTION 'there is no metric %: use %', coalesce(metric, 'NULL'),
            (SELECT string_agg(DISTINCT m.name, ', ' ORDER BY m.name) FROM public.metrics m) USING ERRCODE = '22023';
    ELSIF "from" > "to" THEN
        RAISE EXCEPTION 'the range is upside down: from % to %', "from", "to" USING ERRCODE = '22023';
    END IF;
    source := CASE
        WHEN step IS NOT NULL THEN CASE
            WHEN extract(epoch FROM step)::numeric % 86400 = 0 THEN 'telemetry_daily'
            WHEN extract(epoch FROM step)::numeric % 3600 = 0 THEN 'telemetry_hourly'
            ELSE 'telemetry_1m' END
        WHEN "to" - "from" < day THEN 'telemetry_1m'
        WHEN "to" - "from" < 90 * day THEN 'telemetry_hourly'
        ELSE 'telemetry_daily' END;
    RETURN QUERY EXECUTE format(
        'SELECT bucket, avg_%1$s, count_%1$s FROM public.%2$I '
        'WHERE device_id = $1 AND bucket >= $2 AND bucket < $3 AND count_%1$s > 0', short, source
    ) USING device, "from", "to";
END $$;
COMMENT ON FUNCTION metric_series(text, text, timestamptz, timestamptz, interval) IS
    'Averages of a device''s metric, of the buckets that begin from "from" until before "to": minutes for less than a day, hours for less than 90 days, else days; or the widest of these that divides step. In no order';

CREATE FUNCTION trend_slope(device text, metric text, "from" timestamptz, "to" timestamptz)
    RETURNS TABLE (slope_per_day double precision, r2 double precision, readings bigint) LANGUAGE sql STABLE
    AS $$
    WITH points AS (
        SELECT extract(epoch FROM s.bucket - "from")::double precision / 86400 AS x, s.average AS y, s.readings AS n
        FROM public.metric_series(device, metric, "from", "to") s
    ), centre AS (
        SELECT sum(n) AS readings, sum(n * x) / sum(n) AS x, sum(n * y) / sum(n) AS y, count(*) AS buckets FROM points
    ), moments AS (
        -- Of a single bucket nothing but what rounding leaves.
        SELECT CASE WHEN c.buckets > 1 THEN sum(n * (p.x - c.x) ^ 2) END AS xx, sum(n * (p.x - c.x) * (p.y - c.y)) AS xy, sum(n * (p.y - c.y) ^ 2) AS yy
        FROM points p CROSS JOIN centre c GROUP BY c.buckets
    )
    SELECT m.xy / nullif(m.xx, 0),
           CASE WHEN m.xx > 0 THEN CASE WHEN m.yy > 0 THEN least(1, m.xy ^ 2 / (m.xx * m.yy)) ELSE 1 END END,
           c.readings::bigint
    FROM centre c CROSS JOIN moments m
    $$;
COMMENT ON FUNCTION trend_slope(text, text, timestamptz, timestamptz) IS
    'The straight line of least squares through the averages of metric_series, weighted by readings: its slope in units per day, and the share of their variance that it explains (r2; 1 when there is none). No row without readings; NULL for a single bucket';

CREATE FUNCTION moving_average(
    device text, metric text, "from" timestamptz, "to" timestamptz, width interval, "window" integer
) RETURNS TABLE (bucket timestamptz, average double precision, moving_average double precision, readings bigint)
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    seconds constant numeric := extract(epoch FROM width);
BEGIN
    IF width IS NULL OR extract(month FROM width) <> 0 OR extract(year FROM width) <> 0 OR seconds < 60 OR seconds % 60 <> 0 THEN
        RAISE EXCEPTION 'width is %: it must be whole minutes, hours or days', coalesce(width::text, 'NULL') USING ERRCODE = '22023';
    ELSIF "window" IS NULL OR "window" NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'window is %: it must be a number of buckets from 1 to 10000', coalesce("window"::text, 'NULL')
            USING ERRCODE = '22023';
    END IF;
    RETURN QUERY
    WITH wide AS (
        SELECT public.time_bucket(width, s.bucket) AS at, sum(s.average * s.readings) AS total, sum(s.readings) AS n
        FROM public.metric_series(device, metric, public.time_bucket(width, "from") - ("window" - 1) * width, "to", width) s
        GROUP BY 1
    ), moving AS (
        SELECT w.at, w.total, w.n, sum(w.total) OVER past / sum(w.n) OVER past AS mean FROM wide w
        WINDOW past AS (ORDER BY w.at RANGE BETWEEN make_interval(secs => seconds * ("window" - 1)) PRECEDING AND CURRENT ROW)
    )
    SELECT m.at, m.total / m.n::double precision, m.mean::double precision, m.n::bigint
    FROM moving m WHERE m.at >= public.time_bucket(width, "from") AND "from" < "to" ORDER BY m.at;
END $$;
COMMENT ON FUNCTION moving_average(text, text, timestamptz, timestamptz, interval, integer) IS
    'Per bucket of that width (UTC) that touches the range and has readings: its average, and that of all readings in it and the window - 1 buckets before it, also those before "from"';

CREATE FUNCTION change_against_previous(device text, metric text, "from" timestamptz, "to" timestamptz)
    RETURNS TABLE (
        average double precision, previous_average double precision, change double precision, change_percent double precision,
        readings bigint, previous_readings bigint
    ) LANGUAGE sql STABLE
    AS $$
    WITH periods AS (
        SELECT sum(s.average * s.readings) / sum(s.readings) AS average, coalesce(sum(s.readings), 0)::bigint AS readings
        FROM public.metric_series(device, metric, "from", "to") s
    ), before AS (
        SELECT sum(s.average * s.readings) / sum(s.readings) AS average, coalesce(sum(s.readings), 0)::bigint AS readings
        FROM public.metric_series(device, metric, "from" - ("to" - "from"), "from") s
    )
    SELECT p.average, b.average, p.average - b.average, 100 * (p.average - b.average) / nullif(abs(b.average), 0),
           p.readings, b.readings
    FROM periods p CROSS JOIN before b WHERE p.readings + b.readings > 0
    $$;
COMMENT ON FUNCTION change_against_previous(text, text, timestamptz, timestamptz) IS
    'The average of the range beside that of the equally long one before it. NULL where one of them has no readings, and percent of zero; no row where neither has';
