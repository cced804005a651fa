-- The balance sheet: of the readings that there should be, per device and hour, what became of each.

CREATE TABLE ingest.balance (
    device_id    text             NOT NULL,
    hour         timestamptz      NOT NULL CHECK (extract(epoch FROM hour)::numeric % 3600 = 0),
    source       text             NOT NULL CHECK (source IN ('sequence', 'oracle')),
    expected     bigint           NOT NULL CHECK (expected >= 0),
    rows         bigint           NOT NULL DEFAULT 0,
    duplicates   bigint           NOT NULL DEFAULT 0,
    quarantined  bigint           NOT NULL DEFAULT 0,
    in_flight    bigint           NOT NULL DEFAULT 0,
    missing      bigint           NOT NULL DEFAULT 0,
    differing    bigint           NOT NULL DEFAULT 0,
    residual_ppm double precision GENERATED ALWAYS AS (
        CASE WHEN expected > 0 THEN 1000000 * missing / expected::double precision ELSE 0 END
    ) STORED,
    checked_at   timestamptz      NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ingest.balance IS
    'Per device and hour (UTC) of the readings'' timestamps: how many there should be, and where they are (docs/audit.md). Readings of an hour in which a device sent none are counted where its sequence goes on';
COMMENT ON COLUMN ingest.balance.source IS
    'sequence: by the devices'' sequence numbers, written by maintenance for closed hours; oracle: by what a simulated fleet wrote down that it had sent, written by fleet audit --oracle';
COMMENT ON COLUMN ingest.balance.expected IS
    'sequence: rows, and numbers that are left out between them; oracle: readings, and payloads broken on purpose, that were acknowledged';
COMMENT ON COLUMN ingest.balance.duplicates IS
    'sequence: what the ledger counted, beside what is expected; oracle: acknowledged copies of readings whose row is there, which are part of what is expected';
COMMENT ON COLUMN ingest.balance.differing IS 'of the rows, those whose values are not what was sent; by the oracle only';
COMMENT ON COLUMN ingest.balance.residual_ppm IS 'missing, in parts per million of expected';
SELECT create_hypertable('ingest.balance', by_range('hour', INTERVAL '7 days'), create_default_indexes => false);
CREATE UNIQUE INDEX balance_key ON ingest.balance (hour, source, device_id);
CREATE INDEX balance_device_id_hour_idx ON ingest.balance (device_id, hour);

-- The one rule of what a gap is. A seq of 0 is that of a reading without one. In the order of seq, so that readings which
-- came or were stamped out of order leave no gap; a gap counts only where time goes on across it, so that a counter that
-- began anew leaves none, and so does one that jumps by more than a million. The reading before the span tells how it
-- begins. No settings of its own: it is to be part of the statement that calls it.
CREATE FUNCTION ingest.sequence_gaps(device text, since timestamptz, "from" timestamptz, "to" timestamptz)
    RETURNS TABLE (present bigint, missing bigint) LANGUAGE sql STABLE
    AS $$
    SELECT count(*) FILTER (WHERE inside),
           coalesce(sum(seq - previous - 1) FILTER (
               WHERE inside AND seq - previous BETWEEN 2 AND 1000000 AND timestamp >= previous_timestamp
           ), 0)::bigint
    FROM (
        SELECT seq, timestamp, inside,
               lag(seq) OVER by_seq AS previous, lag(timestamp) OVER by_seq AS previous_timestamp
        FROM (
            (
                SELECT t.seq, t.timestamp, false AS inside FROM public.telemetry t
                WHERE t.device_id = device AND t.timestamp >= since AND t.timestamp < "from"
                ORDER BY t.timestamp DESC, t.seq DESC LIMIT 1
            )
            UNION ALL
            SELECT t.seq, t.timestamp, true FROM public.telemetry t
            WHERE t.device_id = device AND t.timestamp >= "from" AND t.timestamp < "to"
        ) readings
        WHERE seq > 0
        WINDOW by_seq AS (ORDER BY seq, timestamp)
    ) neighbours
    $$;
COMMENT ON FUNCTION ingest.sequence_gaps(text, timestamptz, timestamptz, timestamptz) IS
    'A device''s readings with a seq from "from" until before "to", and how many numbers are left out among them and after the last one before, which is looked for from since on';

-- Counts only: the texts are not for everybody who may read the balance.
CREATE FUNCTION ingest.quarantined_numbers(device text, "from" timestamptz, "to" timestamptz)
    RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(sum(numbers), 0)::bigint FROM (
        SELECT regexp_count(q.raw, '"seq"\s*:\s*-?[0-9]') AS numbers,
               'epoch'::timestamptz + substring(q.raw FROM '"ts"\s*:\s*([0-9]{12,13})\M')::bigint * interval '1 millisecond' AS ts,
               coalesce(q.received_at, q.quarantined_at) AS at
        FROM ingest.quarantine q
        WHERE q.device_id = device AND q.quarantined_at >= "from" - interval '1 hour' AND q.quarantined_at < "to" + interval '7 days'
          AND q.resolution IS DISTINCT FROM 'redriven'
    ) refused
    WHERE CASE WHEN ts BETWEEN at - interval '7 days' AND at + interval '1 hour' THEN ts ELSE at END >= "from"
      AND CASE WHEN ts BETWEEN at - interval '7 days' AND at + interval '1 hour' THEN ts ELSE at END < "to"
    $$;
COMMENT ON FUNCTION ingest.quarantined_numbers(text, timestamptz, timestamptz) IS
    'Sequence numbers of a device that are in quarantine, of readings from "from" until before "to": by their ts, or where that cannot be by when they came';

-- Where a counter goes on above the hour before, no reading need be looked at: numbers, less readings, are what is left out.
CREATE FUNCTION ingest.sequence_balance(hour timestamptz, devices text[] DEFAULT NULL, each_reading boolean DEFAULT false)
    RETURNS TABLE (device_id text, expected bigint, rows bigint, duplicates bigint, quarantined bigint, missing bigint)
    LANGUAGE plpgsql STABLE SET search_path = public, pg_temp
    AS $$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        WITH counted AS MATERIALIZED (%1$s), before AS MATERIALIZED (
            SELECT device_id, last_seq FROM telemetry_hourly WHERE bucket = %2$L::timestamptz - interval '1 hour' %5$s
        ), judged AS MATERIALIZED (
            SELECT c.device_id, c.reading_count,
                   CASE WHEN NOT %4$L AND b.last_seq > 0 AND c.first_seq > b.last_seq
                       AND c.last_seq - b.last_seq - c.reading_count BETWEEN 0 AND 1000000 - 1
                       THEN c.last_seq - b.last_seq - c.reading_count END AS gaps
            FROM counted c LEFT JOIN before b USING (device_id)
        ), gaps AS MATERIALIZED (
            SELECT device_id, reading_count, gaps FROM judged WHERE gaps IS NOT NULL
            UNION ALL
            SELECT j.device_id, j.reading_count, g.missing FROM judged j CROSS JOIN LATERAL ingest.sequence_gaps(
                j.device_id, %2$L::timestamptz - interval '7 days', %2$L::timestamptz, %3$L::timestamptz
            ) g WHERE j.gaps IS NULL
        ), settled AS (
            SELECT device_id, reading_count, gaps,
                   CASE WHEN gaps > 0 THEN least(gaps, ingest.quarantined_numbers(device_id, %2$L, %3$L)) ELSE 0 END AS refused
            FROM gaps
        ), repeated AS MATERIALIZED (
            SELECT device_id, sum(duplicates)::bigint AS duplicates FROM ingest.duplicates
            WHERE hour = %2$L::timestamptz %5$s GROUP BY device_id
        )
        SELECT s.device_id, s.reading_count + s.gaps, s.reading_count, coalesce(r.duplicates, 0), s.refused, s.gaps - s.refused
        FROM settled s LEFT JOIN repeated r USING (device_id)
        $sql$,
        CASE WHEN each_reading THEN format(
            'SELECT device_id, count(*) AS reading_count, min(seq) AS first_seq, max(seq) AS last_seq FROM telemetry '
            'WHERE timestamp >= %L AND timestamp < %L %s GROUP BY device_id HAVING max(seq) > 0',
            hour, hour + interval '1 hour', CASE WHEN devices IS NULL THEN '' ELSE 'AND device_id = ANY($1)' END)
        ELSE format(
            'SELECT device_id, reading_count, first_seq, last_seq FROM telemetry_hourly WHERE bucket = %L AND last_seq > 0 %s',
            hour, CASE WHEN devices IS NULL THEN '' ELSE 'AND device_id = ANY($1)' END)
        END,
        hour, hour + interval '1 hour', each_reading, CASE WHEN devices IS NULL THEN '' ELSE 'AND device_id = ANY($1)' END
    ) USING devices;
END $$;
COMMENT ON FUNCTION ingest.sequence_balance(timestamptz, text[], boolean) IS
    'The balance of an hour, of these devices (NULL: all) that have readings with a seq in it, by sequence numbers: from the rollup, or from each reading, which is exact for an hour that is not over too';

-- Which hours are to be balanced. A mark of ingest.touched that is worked off becomes one here: whoever works marks off is
-- alone, so nothing waits, and no loader pays for it.
CREATE TABLE ingest.balance_due (
    due_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hour       timestamptz NOT NULL,
    device_ids text[],
    since      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ingest.balance_due IS
    'Hours whose balance by sequence numbers is not what the readings say any more: of these devices, NULL of all; gone once it is written';
CREATE INDEX balance_due_hour_idx ON ingest.balance_due (hour);

CREATE FUNCTION ingest.balance_delay() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '15 minutes' $$;
COMMENT ON FUNCTION ingest.balance_delay() IS 'How long after its end an hour is closed: what was in flight is there by then';

CREATE FUNCTION ingest.note_balance_due() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Of an hour that is not closed all devices are balanced anyway, once. A mark that is locked is being worked off, and
    -- may not know of these readings any more.
    INSERT INTO ingest.balance_due (hour)
    SELECT hour FROM (
        SELECT DISTINCT date_trunc('hour', first, 'UTC') AS hour FROM gone
        WHERE device_ids IS NULL
           OR date_trunc('hour', first, 'UTC') > now() - interval '1 hour' - ingest.balance_delay()
    ) whole
    WHERE NOT EXISTS (
        SELECT FROM ingest.balance_due d WHERE d.hour = whole.hour AND d.device_ids IS NULL FOR KEY SHARE SKIP LOCKED
    );
    INSERT INTO ingest.balance_due (hour, device_ids)
    SELECT hour, array_agg(DISTINCT device_id) FROM (
        SELECT date_trunc('hour', first, 'UTC') AS hour, unnest(device_ids) AS device_id FROM gone
        WHERE date_trunc('hour', first, 'UTC') <= now() - interval '1 hour' - ingest.balance_delay()
    ) late
    WHERE NOT EXISTS (
        SELECT FROM ingest.balance_due d WHERE d.hour = late.hour AND d.device_ids IS NULL FOR KEY SHARE SKIP LOCKED
    )
    GROUP BY hour;
    RETURN NULL;
END $$;
CREATE TRIGGER note_balance_due AFTER DELETE ON ingest.touched
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION ingest.note_balance_due();

CREATE FUNCTION ingest.balance_next() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
DECLARE
    next_hour timestamptz;
    marks     bigint[];
    devices   text[];
    each      record;
    written   bigint;
    total     bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(31088090465235313) THEN
        RETURN NULL;
    END IF;
    -- What has expired is not known any more, and what the rollup does not show yet is for later. Only a mark that waits
    -- says that the rollup is behind: a fresh one will make its hour due again, and somewhere late readings always come.
    DELETE FROM ingest.balance_due d WHERE d.hour < rollup.kept_since();
    SELECT max(d.hour) INTO next_hour FROM ingest.balance_due d
    WHERE d.hour <= now() - interval '1 hour' - ingest.balance_delay()
      AND NOT EXISTS (
          SELECT FROM ingest.touched t WHERE t.first >= d.hour - interval '1 hour' AND t.first < d.hour + interval '1 hour'
            AND t.touched_at < now() - interval '2 minutes'
      )
      AND NOT EXISTS (
          SELECT FROM rollup.pending p
          WHERE p.level <= 2 AND p.bucket >= d.hour - interval '1 hour' AND p.bucket < d.hour + interval '1 hour'
      );
    IF next_hour IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(due_id) INTO marks
    FROM (SELECT due_id FROM ingest.balance_due d WHERE d.hour = next_hour FOR UPDATE) locked;
    -- From here on what is touched makes marks of its own. What was touched until then, the rollup has to show.
    IF EXISTS (
        SELECT FROM rollup.pending p
        WHERE p.level <= 2 AND p.bucket >= next_hour - interval '1 hour' AND p.bucket < next_hour + interval '1 hour'
    ) THEN
        RETURN NULL;
    END IF;
    -- Readings that come late change what was left out before the ones that follow, too.
    IF EXISTS (SELECT FROM ingest.balance_due d WHERE d.due_id = ANY(marks) AND d.device_ids IS NULL) THEN
        devices := NULL;
    ELSE
        SELECT array_agg(DISTINCT device_id) INTO devices
        FROM ingest.balance_due d CROSS JOIN LATERAL unnest(d.device_ids) device_id WHERE d.due_id = ANY(marks);
    END IF;
    FOR each IN
        SELECT next_hour AS hour, devices AS device_ids, false AS following
        UNION ALL
        SELECT f.hour, array_agg(f.device_id), true FROM (
            SELECT DISTINCT ON (b.device_id) b.device_id, b.hour FROM ingest.balance b
            WHERE b.source = 'sequence' AND b.hour > next_hour AND b.hour <= next_hour + interval '7 days'
              AND (devices IS NULL OR b.device_id = ANY(devices))
            ORDER BY b.device_id, b.hour
        ) f GROUP BY f.hour
    LOOP
        WITH fresh AS MATERIALIZED (
            SELECT * FROM ingest.sequence_balance(each.hour, each.device_ids)
        ), gone AS (
            DELETE FROM ingest.balance b
            WHERE b.hour = each.hour AND b.source = 'sequence' AND NOT each.following
              AND (each.device_ids IS NULL OR b.device_id = ANY(each.device_ids))
              AND NOT EXISTS (SELECT FROM fresh WHERE fresh.device_id = b.device_id)
        ), stored AS (
            INSERT INTO ingest.balance (device_id, hour, source, expected, rows, duplicates, quarantined, missing)
            SELECT f.device_id, each.hour, 'sequence', f.expected, f.rows, f.duplicates, f.quarantined, f.missing FROM fresh f
            ON CONFLICT (hour, source, device_id) DO UPDATE SET
                expected = excluded.expected, rows = excluded.rows, duplicates = excluded.duplicates,
                quarantined = excluded.quarantined, in_flight = 0, missing = excluded.missing, checked_at = excluded.checked_at
            RETURNING 1
        )
        SELECT count(*) INTO written FROM stored;
        total := total + written;
    END LOOP;
    DELETE FROM ingest.balance_due WHERE due_id = ANY(marks);
    RETURN total;
END $$;
COMMENT ON FUNCTION ingest.balance_next() IS
    'Balances the newest closed hour that is due; how many rows it wrote, NULL when nothing is due or another is at it';

CREATE FUNCTION ingest.drop_expired_balance() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
DECLARE
    dropped bigint := 0;
BEGIN
    IF rollup.kept_since() > '-infinity' THEN
        SELECT count(*) INTO dropped FROM drop_chunks('ingest.balance', rollup.kept_since());
    END IF;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION ingest.drop_expired_balance() IS 'Drops what is older than readings are kept, and counts the chunks';

CREATE VIEW ingest.balance_lately AS
SELECT coalesce(sum(expected), 0)::bigint AS expected, coalesce(sum(missing), 0)::bigint AS missing,
       1000000 * coalesce(sum(missing) / nullif(sum(expected), 0), 0)::double precision AS missing_ppm, count(DISTINCT hour) AS hours
FROM ingest.balance
WHERE source = 'sequence' AND hour > now() - interval '25 hours' - ingest.balance_delay();
COMMENT ON VIEW ingest.balance_lately IS 'The fleet''s balance by sequence numbers over the last 24 closed hours';

-- Of the week before this migration.
INSERT INTO ingest.balance_due (hour)
SELECT DISTINCT hour
FROM timescaledb_information.chunks,
     generate_series(greatest(range_start, date_trunc('hour', now() - interval '7 days', 'UTC')),
                     least(range_end, now()) - interval '1 microsecond', interval '1 hour') hour
WHERE hypertable_schema = 'public' AND hypertable_name = 'telemetry';

REVOKE EXECUTE ON FUNCTION
    ingest.sequence_gaps(text, timestamptz, timestamptz, timestamptz),
    ingest.quarantined_numbers(text, timestamptz, timestamptz),
    ingest.sequence_balance(timestamptz, text[], boolean),
    ingest.balance_delay(), ingest.note_balance_due(), ingest.balance_next(), ingest.drop_expired_balance()
FROM PUBLIC;
-- Watch and maintenance log in as the loader; whoever reads the database may draw up a balance, and operators keep it.
GRANT EXECUTE ON FUNCTION ingest.sequence_gaps(text, timestamptz, timestamptz, timestamptz), ingest.balance_delay()
    TO iot_loader, iot_reader;
GRANT EXECUTE ON FUNCTION ingest.balance_next(), ingest.drop_expired_balance() TO iot_loader;
GRANT EXECUTE ON FUNCTION
    ingest.quarantined_numbers(text, timestamptz, timestamptz), ingest.sequence_balance(timestamptz, text[], boolean)
TO iot_reader;
GRANT SELECT ON ingest.balance, ingest.balance_lately TO iot_loader, iot_reader;
GRANT SELECT ON ingest.balance_due TO iot_reader;
GRANT INSERT, UPDATE ON ingest.balance TO iot_operator;
