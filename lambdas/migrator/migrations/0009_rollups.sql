-- Rollups by the minute, hour, day and week: the same views on both editions, exact at every level, and never stale.

-- How long what is kept, and when it is compressed. The migrator writes the deployment's settings here.
CREATE TABLE ingest.settings (
    singleton             boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    chunk_hours           integer NOT NULL DEFAULT 24   CHECK (chunk_hours > 0),
    compress_after_days   integer NOT NULL DEFAULT 7    CHECK (compress_after_days > 0),
    retention_days        integer NOT NULL DEFAULT 365  CHECK (retention_days > 0),
    rollup_retention_days integer NOT NULL DEFAULT 1825 CHECK (rollup_retention_days >= retention_days),
    applied_at            timestamptz
);
COMMENT ON TABLE ingest.settings IS 'One row; after changing it by hand call ingest.apply_settings()';
COMMENT ON COLUMN ingest.settings.chunk_hours IS 'of chunks made from now on';
COMMENT ON COLUMN ingest.settings.compress_after_days IS 'Community edition only';
COMMENT ON COLUMN ingest.settings.retention_days IS 'of readings, and of their rollup by the minute';
COMMENT ON COLUMN ingest.settings.rollup_retention_days IS 'of rollups by the hour, day and week';
COMMENT ON COLUMN ingest.settings.applied_at IS
    'the last time that somebody called ingest.apply_settings(); NULL: what is here is nobody''s wish yet, and nothing is dropped';
INSERT INTO ingest.settings DEFAULT VALUES;

-- A rollup is made of all devices in a span of time, and the unique index begins with the device. What is stored lies
-- in the order in which it came, so a few bytes per megabyte tell where a time is to be found.
CREATE INDEX telemetry_timestamp_idx ON telemetry USING brin (timestamp) WITH (pages_per_range = 64, autosummarize = on);

CREATE SCHEMA rollup;
COMMENT ON SCHEMA rollup IS 'What the views telemetry_1m, telemetry_hourly, telemetry_daily and telemetry_weekly are made of';

-- Which buckets are not what the readings say any more. Written in the transaction that stores or removes readings, and
-- removed by id, so that a mark that comes while rollups are computed stays for the next time.
CREATE TABLE ingest.touched (
    touched_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first      timestamptz NOT NULL,
    last       timestamptz NOT NULL,
    device_ids text[],
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (last >= first AND date_trunc('hour', first, 'UTC') = date_trunc('hour', last, 'UTC'))
);
COMMENT ON TABLE ingest.touched IS
    'Readings of these devices (NULL: of all) from first to last, within an hour, were stored or removed; gone once the rollups know';
CREATE INDEX touched_first_idx ON ingest.touched (first);

CREATE TABLE rollup.levels (
    level integer  PRIMARY KEY,
    name  text     NOT NULL UNIQUE,
    view  text     NOT NULL UNIQUE,
    width interval NOT NULL,
    chunk interval NOT NULL
);
COMMENT ON TABLE rollup.levels IS 'Each but the first is made of the one before; buckets are of UTC, weeks begin on Mondays';
INSERT INTO rollup.levels VALUES
    (1, 'minutes', 'telemetry_1m',     '1 minute', '7 days'),
    (2, 'hours',   'telemetry_hourly', '1 hour',   '90 days'),
    (3, 'days',    'telemetry_daily',  '1 day',    '365 days'),
    (4, 'weeks',   'telemetry_weekly', '7 days',   '1820 days');

CREATE TABLE rollup.pending (
    level  integer     NOT NULL REFERENCES rollup.levels,
    bucket timestamptz NOT NULL,
    since  timestamptz NOT NULL,
    PRIMARY KEY (level, bucket)
);
COMMENT ON TABLE rollup.pending IS 'Community edition: buckets to be refreshed, once they are over; till then they are computed as they are read';

CREATE FUNCTION rollup.grace() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '2 minutes' $$;
COMMENT ON FUNCTION rollup.grace() IS
    'How long after its end a bucket is still computed as it is read (Community edition): most readings are there by then';

CREATE FUNCTION rollup.kept_since() RETURNS timestamptz LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN applied_at IS NULL THEN '-infinity' ELSE now() - make_interval(days => retention_days) END
    FROM ingest.settings
    $$;
COMMENT ON FUNCTION rollup.kept_since() IS 'Readings before that may have been dropped';

CREATE VIEW rollup.waiting AS
SELECT touched_at AS since FROM ingest.touched
UNION ALL
SELECT greatest(p.since, p.bucket + l.width + rollup.grace()) FROM rollup.pending p JOIN rollup.levels l USING (level)
WHERE p.bucket + l.width + rollup.grace() <= now();
COMMENT ON VIEW rollup.waiting IS 'Since when each change waits that could be in the rollups and is not yet';

CREATE TABLE rollup.progress (
    singleton  boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    recomputed bigint      NOT NULL DEFAULT 0,
    dropped_at timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON COLUMN rollup.progress.recomputed IS 'Community edition: buckets of all levels that the job refreshed since they were last taken';
COMMENT ON COLUMN rollup.progress.dropped_at IS 'when expired chunks were last looked for';
INSERT INTO rollup.progress DEFAULT VALUES;

-- Count, sum, and sum of squared deviations: what float8_accum keeps is combined without loss, so that no average of
-- averages, and no difference of great squares, is ever taken.
CREATE AGGREGATE rollup.moments(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], INITCOND = '{0,0,0}', COMBINEFUNC = float8_combine, PARALLEL = SAFE
);
CREATE AGGREGATE rollup.combined(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], INITCOND = '{0,0,0}', COMBINEFUNC = float8_combine, PARALLEL = SAFE
);

CREATE FUNCTION rollup.query(wanted rollup.levels) RETURNS text LANGUAGE sql STABLE
    AS $$
    SELECT CASE WHEN wanted.level = 1 THEN
        format('SELECT time_bucket(%L::interval, timestamp) AS bucket, device_id, count(*) AS reading_count, ', wanted.width)
        || string_agg(format('rollup.moments(%1$s) AS %1$s, min(%1$s) AS %1$s_min, max(%1$s) AS %1$s_max', metric), ', ')
        || ', count(*) FILTER (WHERE quality & 15 <> 0) AS invalid_count'
        || ', count(*) FILTER (WHERE quality & 240 <> 0) AS out_of_range_count'
        || ', count(*) FILTER (WHERE received_at > timestamp + interval ''5 minutes'') AS late_count'
        || ', min(seq) AS first_seq, max(seq) AS last_seq FROM public.telemetry'
    ELSE
        format('SELECT time_bucket(%L::interval, bucket) AS bucket, device_id, '
            'sum(reading_count)::bigint AS reading_count, ', wanted.width)
        || string_agg(format(
            'rollup.combined(%1$s) AS %1$s, min(%1$s_min) AS %1$s_min, max(%1$s_max) AS %1$s_max', metric), ', ')
        || ', sum(invalid_count)::bigint AS invalid_count, sum(out_of_range_count)::bigint AS out_of_range_count'
        || ', sum(late_count)::bigint AS late_count, min(first_seq) AS first_seq, max(last_seq) AS last_seq'
        || format(' FROM rollup.%I', (SELECT name FROM rollup.levels WHERE level = wanted.level - 1))
    END
    FROM unnest(ARRAY['temperature', 'humidity', 'pressure', 'battery']) metric
    $$;
COMMENT ON FUNCTION rollup.query(rollup.levels) IS 'How a level is computed, less its WHERE and GROUP BY 1, 2';

DO $$
DECLARE
    community constant boolean := current_setting('timescaledb.license') = 'timescale';
    each      rollup.levels;
    shown     text;
BEGIN
    FOR each IN SELECT * FROM rollup.levels ORDER BY level LOOP
        IF community THEN
            EXECUTE format(
                'CREATE MATERIALIZED VIEW rollup.%I WITH (timescaledb.continuous, timescaledb.materialized_only = false) '
                'AS %s GROUP BY 1, 2 WITH NO DATA', each.name, rollup.query(each)
            );
        ELSE
            EXECUTE format('CREATE TABLE rollup.%I AS %s GROUP BY 1, 2 WITH NO DATA', each.name, rollup.query(each));
            EXECUTE format('ALTER TABLE rollup.%I ALTER bucket SET NOT NULL, ALTER device_id SET NOT NULL', each.name);
            PERFORM create_hypertable(
                format('rollup.%I', each.name)::regclass, by_range('bucket', each.chunk), create_default_indexes => false
            );
            EXECUTE format('CREATE UNIQUE INDEX ON rollup.%I (device_id, bucket)', each.name);
            EXECUTE format('CREATE INDEX ON rollup.%I (bucket)', each.name);
        END IF;
        SELECT string_agg(format(
            'float8_avg(%1$s) AS avg_%2$s, %1$s_min AS min_%2$s, %1$s_max AS max_%2$s, float8_stddev_samp(%1$s) AS stddev_%2$s, '
            '(%1$s)[1]::bigint AS count_%2$s', metric, short), ', ')
        INTO shown
        FROM (VALUES ('temperature', 'temp'), ('humidity', 'humidity'), ('pressure', 'pressure'), ('battery', 'battery'))
            AS metrics(metric, short);
        EXECUTE format('CREATE VIEW public.%I AS SELECT bucket, device_id, reading_count, %s, invalid_count, out_of_range_count, '
            'late_count, first_seq, last_seq FROM rollup.%I', each.view, shown, each.name);
        EXECUTE format(
            'COMMENT ON VIEW public.%I IS %L', each.view,
            format('Readings per device and %s (UTC): count_ of values that are not NULL, stddev_ of the sample; readings with a '
                'value of the wrong type (invalid), outside its plausible range, received more than 5 minutes after it was '
                'taken (late)', each.width)
        );
    END LOOP;
END $$;

-- Apache edition: computes anew what was touched in one hour, the newest first, and what that hour is part of.
CREATE FUNCTION rollup.recompute_next() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
DECLARE
    hour       timestamptz;
    marks      bigint[];
    devices    text[];
    begins     timestamptz[];
    ends       timestamptz[];
    each       rollup.levels;
    bucket     timestamptz;
    assigned   text;
    buckets    bigint;
    total      bigint := 0;
BEGIN
    IF current_setting('timescaledb.license') = 'timescale' OR NOT pg_try_advisory_xact_lock(31088090465235312) THEN
        RETURN NULL;
    END IF;
    SELECT date_trunc('hour', max(first), 'UTC') INTO hour FROM ingest.touched;
    IF hour IS NULL THEN
        RETURN NULL;
    END IF;
    -- What is marked from here on has other ids, and readings that the statements below may or may not see.
    SELECT array_agg(touched_id) INTO marks FROM ingest.touched WHERE first >= hour AND first < hour + interval '1 hour';
    -- What the readings were is no longer known where they have expired: what was made of them stays.
    IF hour >= rollup.kept_since() - interval '1 hour' THEN
        SELECT array_agg(device_id), array_agg(span_begin), array_agg(span_end) INTO devices, begins, ends FROM (
            SELECT device_id, date_trunc('minute', min(first), 'UTC') AS span_begin,
                   date_trunc('minute', max(last), 'UTC') + interval '1 minute' AS span_end
            FROM (
                SELECT unnest(device_ids) AS device_id, first, last FROM ingest.touched WHERE touched_id = ANY(marks)
                UNION ALL
                SELECT known.device_id, first, last FROM ingest.touched CROSS JOIN LATERAL (
                    SELECT device_id FROM public.telemetry
                    WHERE timestamp >= hour AND timestamp < hour + interval '1 hour'
                    UNION
                    SELECT device_id FROM rollup.minutes m
                    WHERE m.bucket >= hour AND m.bucket < hour + interval '1 hour'
                ) known
                WHERE touched_id = ANY(marks) AND device_ids IS NULL
            ) touched GROUP BY device_id
        ) spans;
    END IF;
    -- A few readings of each device: the index that begins with the device, and never a chunk read through.
    PERFORM set_config('enable_bitmapscan', 'off', true);
    FOR each IN SELECT * FROM rollup.levels WHERE devices IS NOT NULL ORDER BY level LOOP
        bucket := time_bucket(each.width, hour);
        SELECT string_agg(format('%1$I = excluded.%1$I', attname), ', ') INTO assigned
        FROM pg_attribute
        WHERE attrelid = format('rollup.%I', each.name)::regclass AND attnum > 0 AND attname NOT IN ('device_id', 'bucket');
        EXECUTE format(
            'WITH span AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3) AS span(device_id, span_begin, span_end)), '
            'fresh AS MATERIALIZED (SELECT fresh.* FROM span CROSS JOIN LATERAL ('
            '    %1$s AS source WHERE source.device_id = span.device_id AND %2$s GROUP BY 1, 2) fresh), '
            'gone AS (DELETE FROM rollup.%3$I stored USING span WHERE stored.device_id = span.device_id AND %4$s '
            '    AND NOT EXISTS (SELECT FROM fresh WHERE fresh.device_id = stored.device_id AND fresh.bucket = stored.bucket)), '
            'stored AS (INSERT INTO rollup.%3$I SELECT * FROM fresh ORDER BY device_id, bucket '
            '    ON CONFLICT (device_id, bucket) DO UPDATE SET %5$s RETURNING bucket) '
            'SELECT count(DISTINCT bucket) FROM stored',
            rollup.query(each),
            CASE WHEN each.level = 1 THEN format(
                'source.timestamp >= span.span_begin AND source.timestamp < span.span_end '
                'AND source.timestamp >= %L AND source.timestamp < %L', hour, hour + interval '1 hour')
            ELSE format('source.bucket >= %L AND source.bucket < %L', bucket, bucket + each.width) END,
            each.name,
            CASE WHEN each.level = 1 THEN format(
                'stored.bucket >= span.span_begin AND stored.bucket < span.span_end '
                'AND stored.bucket >= %L AND stored.bucket < %L', hour, hour + interval '1 hour')
            ELSE format('stored.bucket = %L', bucket) END,
            assigned
        ) INTO buckets USING devices, begins, ends;
        total := total + buckets;
    END LOOP;
    DELETE FROM ingest.touched WHERE touched_id = ANY(marks);
    RETURN total;
END $$;
COMMENT ON FUNCTION rollup.recompute_next() IS
    'Works off the marks of one hour; how many buckets it computed, NULL when there is nothing to do or another is at it';

-- Community edition: refreshes exactly what was touched. No refresh policy: what a transaction touches, TimescaleDB
-- remembers as one span, and a single reading that is days late would have all those days computed again.
CREATE PROCEDURE rollup.refresh_touched(job_id integer DEFAULT NULL, config jsonb DEFAULT NULL)
    LANGUAGE plpgsql
    AS $$
DECLARE
    each    rollup.levels;
    begins  timestamptz[];
    ends    timestamptz[];
    bounded constant integer := 60;
    -- Newer versions refresh ten buckets at a time unless they are told not to, and take five times as long for an hour.
    in_batches constant boolean := EXISTS (
        SELECT FROM pg_proc WHERE oid = 'public.refresh_continuous_aggregate'::regproc AND 'options' = ANY (proargnames)
    );
BEGIN
    IF NOT pg_try_advisory_lock(31088090465235312) THEN
        RETURN;
    END IF;
    WITH taken AS (DELETE FROM ingest.touched RETURNING first, last, touched_at)
    INSERT INTO rollup.pending AS known (level, bucket, since)
    SELECT 1, minute, min(touched_at)
    FROM taken, generate_series(date_trunc('minute', first, 'UTC'), last, interval '1 minute') minute GROUP BY minute
    ON CONFLICT (level, bucket) DO UPDATE SET since = least(known.since, excluded.since);
    -- Where the readings have expired, what was made of them stays.
    DELETE FROM rollup.pending WHERE level = 1 AND bucket < rollup.kept_since();
    COMMIT;
    FOR each IN SELECT * FROM rollup.levels ORDER BY level LOOP
        -- Buckets that follow each other are refreshed at once, the oldest first: what is newer is computed when it is read.
        SELECT array_agg(span_begin ORDER BY span_begin), array_agg(span_end ORDER BY span_begin) INTO begins, ends FROM (
            SELECT min(bucket) AS span_begin, max(bucket) + each.width AS span_end FROM (
                SELECT bucket, bucket - row_number() OVER (ORDER BY bucket) * each.width AS island,
                       row_number() OVER (ORDER BY bucket) / bounded AS portion
                FROM rollup.pending WHERE level = each.level AND bucket + each.width + rollup.grace() <= now()
            ) ripe GROUP BY island, portion
        ) spans;
        FOR i IN 1 .. coalesce(array_length(begins, 1), 0) LOOP
            IF in_batches THEN
                CALL public.refresh_continuous_aggregate(
                    format('rollup.%I', each.name)::regclass, begins[i], ends[i], options => '{"buckets_per_batch": 0}'
                );
            ELSE
                CALL public.refresh_continuous_aggregate(format('rollup.%I', each.name)::regclass, begins[i], ends[i]);
            END IF;
            WITH done AS (
                DELETE FROM rollup.pending WHERE level = each.level AND bucket >= begins[i] AND bucket < ends[i]
                RETURNING bucket, since
            ), counted AS (
                UPDATE rollup.progress SET recomputed = recomputed + (SELECT count(*) FROM done)
            )
            INSERT INTO rollup.pending AS known (level, bucket, since)
            SELECT above.level, time_bucket(above.width, bucket), min(since)
            FROM done JOIN rollup.levels above ON above.level = each.level + 1 GROUP BY 1, 2
            ON CONFLICT (level, bucket) DO UPDATE SET since = least(known.since, excluded.since);
            COMMIT;
        END LOOP;
    END LOOP;
    PERFORM pg_advisory_unlock(31088090465235312);
END $$;

CREATE FUNCTION rollup.drop_expired() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
DECLARE
    settings ingest.settings;
    each     rollup.levels;
    number   bigint;
    dropped  bigint := 0;
BEGIN
    UPDATE rollup.progress SET dropped_at = now() WHERE dropped_at <= now() - interval '1 hour';
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT * INTO settings FROM ingest.settings;
    IF settings.applied_at IS NULL THEN
        RETURN 0;
    END IF;
    IF current_setting('timescaledb.license') <> 'timescale' THEN
        SELECT count(*) INTO dropped FROM drop_chunks('public.telemetry', now() - make_interval(days => settings.retention_days));
    END IF;
    FOR each IN SELECT * FROM rollup.levels ORDER BY level LOOP
        SELECT count(*) INTO number FROM drop_chunks(
            format('rollup.%I', each.name)::regclass,
            now() - make_interval(
                days => CASE WHEN each.level = 1 THEN settings.retention_days ELSE settings.rollup_retention_days END
            )
        );
        dropped := dropped + number;
    END LOOP;
    DELETE FROM public.anomalies WHERE resolved_at < now() - make_interval(days => settings.rollup_retention_days);
    RETURN dropped;
END $$;
COMMENT ON FUNCTION rollup.drop_expired() IS
    'Drops what is past its retention, at most once an hour, and counts the chunks; readings themselves by a policy on the Community edition. With them go anomalies (0011) resolved before the rollups of their time';

CREATE FUNCTION rollup.take_recomputed() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH before AS (SELECT recomputed FROM rollup.progress FOR UPDATE),
    taken AS (UPDATE rollup.progress SET recomputed = 0)
    SELECT recomputed FROM before
    $$;
COMMENT ON FUNCTION rollup.take_recomputed() IS 'How many buckets were computed since the last call';

CREATE FUNCTION ingest.apply_settings(asked boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp
    AS $$
DECLARE
    settings ingest.settings;
BEGIN
    UPDATE ingest.settings SET applied_at = CASE WHEN asked THEN clock_timestamp() END RETURNING * INTO settings;
    PERFORM set_chunk_time_interval('public.telemetry', make_interval(hours => settings.chunk_hours));
    IF current_setting('timescaledb.license') = 'timescale' THEN
        CALL remove_columnstore_policy('public.telemetry', if_exists => true);
        CALL add_columnstore_policy('public.telemetry', after => make_interval(days => settings.compress_after_days));
        CALL remove_columnstore_policy('rollup.minutes', if_exists => true);
        CALL add_columnstore_policy('rollup.minutes', after => make_interval(days => settings.compress_after_days + 7));
        PERFORM remove_retention_policy('public.telemetry', if_exists => true);
        IF asked THEN
            PERFORM add_retention_policy('public.telemetry', make_interval(days => settings.retention_days));
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION ingest.apply_settings(boolean) IS
    'Makes what ingest.settings says so; where nobody asked for it (false), all but the retention';

DO $$
BEGIN
    IF current_setting('timescaledb.license') = 'timescale' THEN
        ALTER TABLE telemetry SET (
            timescaledb.enable_columnstore, timescaledb.segmentby = 'device_id', timescaledb.orderby = 'timestamp'
        );
        EXECUTE 'ALTER MATERIALIZED VIEW rollup.minutes SET (timescaledb.enable_columnstore, '
            'timescaledb.segmentby = ''device_id'', timescaledb.orderby = ''bucket'')';
        -- Late and replayed readings may reach into whole compressed days; a limit would keep them out for ever.
        EXECUTE format('ALTER DATABASE %I SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0', current_database());
        -- Bloom filters of seq and of the unique index would be a sixth of what is compressed; late readings go in as fast
        -- without them: device and timestamp leave one batch in which a reading may be already.
        EXECUTE format('ALTER DATABASE %I SET timescaledb.auto_sparse_indexes = off', current_database());
        PERFORM add_job('rollup.refresh_touched', interval '30 seconds');
    END IF;
END $$;
-- A policy would run at once, and with the defaults drop what a longer retention keeps, before the migrator has said so.
SELECT ingest.apply_settings(false);

-- What was there before this migration.
INSERT INTO ingest.touched (first, last)
SELECT hour, hour + interval '1 hour' - interval '1 microsecond'
FROM timescaledb_information.chunks, generate_series(range_start, range_end - interval '1 microsecond', interval '1 hour') hour
WHERE hypertable_schema = 'public' AND hypertable_name = 'telemetry';

-- The loader marks; the maintenance function logs in as the loader.
REVOKE EXECUTE ON FUNCTION rollup.recompute_next(), rollup.drop_expired(), rollup.take_recomputed(), rollup.kept_since(),
    ingest.apply_settings(boolean) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE rollup.refresh_touched(integer, jsonb) FROM PUBLIC;
GRANT USAGE ON SCHEMA rollup TO iot_loader;
GRANT INSERT, SELECT ON ingest.touched TO iot_loader;
GRANT SELECT ON rollup.waiting TO iot_loader;
GRANT EXECUTE ON FUNCTION rollup.recompute_next(), rollup.drop_expired(), rollup.take_recomputed() TO iot_loader;
