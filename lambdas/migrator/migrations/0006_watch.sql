-- What the watch and the sweeper keep from one run to the next, and what the watch may ask the server.

CREATE TABLE ingest.devices_seen (
    device_id text        PRIMARY KEY,
    last_seen timestamptz NOT NULL
);
COMMENT ON TABLE ingest.devices_seen IS
    'Every device that sent a reading within the retention, so that one that is silent for days is still known; delete the row of one that was taken out of service';
COMMENT ON COLUMN ingest.devices_seen.last_seen IS 'of a device that still sends, up to an hour old';

CREATE TABLE ingest.whole_sweep (
    bucket       text        PRIMARY KEY,
    began_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    key          text        NOT NULL,
    version_id   text        NOT NULL,
    deleted      boolean     NOT NULL,
    listed       bigint      NOT NULL,
    never_loaded bigint      NOT NULL,
    announced    bigint      NOT NULL,
    archived     bigint      NOT NULL,
    oldest       timestamptz
);
COMMENT ON TABLE ingest.whole_sweep IS
    'A sweep over everything that ran out of time: where the next run goes on, and what was found before; no row: none is under way';
COMMENT ON COLUMN ingest.whole_sweep.oldest IS 'when S3 stored the oldest object that was never loaded';

-- What was loaded in the last minutes, without a look at the rest of the ledger.
CREATE INDEX objects_loaded_at_idx ON ingest.objects (loaded_at);

-- pg_stat_activity hides what others are, and pg_wal is only for pg_monitor: two numbers are all that the watch needs.
CREATE FUNCTION ingest.client_connections() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT count(*) FROM pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend' $$;
COMMENT ON FUNCTION ingest.client_connections() IS 'Connections that count towards max_connections';

CREATE FUNCTION ingest.unarchived_wal_seconds() RETURNS double precision
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF current_setting('archive_mode') = 'off'
        OR NOT has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE') THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT coalesce(max(extract(epoch FROM clock_timestamp() - modification)), 0)
        FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'
    );
END $$;
COMMENT ON FUNCTION ingest.unarchived_wal_seconds() IS
    'Age of the oldest WAL that waits to be archived, 0 when none does; NULL where this server does not archive, or does not let us see';

REVOKE EXECUTE ON FUNCTION ingest.client_connections(), ingest.unarchived_wal_seconds() FROM PUBLIC;
-- The watch and the sweeper log in as the loader.
GRANT EXECUTE ON FUNCTION ingest.client_connections(), ingest.unarchived_wal_seconds() TO iot_loader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.devices_seen, ingest.whole_sweep TO iot_loader;
