-- What the loader may do, and nothing else. It logs in with a password that the migrator sets from the loader's secret.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'iot_loader') THEN
        CREATE ROLE iot_loader NOLOGIN;
    END IF;
END $$;

-- The way past a unique violation goes through a temporary table.
DO $$ BEGIN EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO iot_loader', current_database()); END $$;
GRANT USAGE ON SCHEMA public, ingest TO iot_loader;
GRANT SELECT, INSERT ON telemetry, ingest.quarantine TO iot_loader;
GRANT SELECT, INSERT, UPDATE ON ingest.objects TO iot_loader;
