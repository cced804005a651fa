-- What the sweeper remembers: which objects it announced to the loader again, so that it does not do so at every run.

CREATE TABLE ingest.announced_again (
    bucket       text        NOT NULL,
    key          text        NOT NULL,
    version_id   text        NOT NULL DEFAULT '',
    arrived_at   timestamptz NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times        integer     NOT NULL DEFAULT 1,
    PRIMARY KEY (bucket, key, version_id)
);
COMMENT ON TABLE ingest.announced_again IS
    'Objects in S3 that the ledger did not have and whose event the sweeper sent again; removed once they are in the ledger';
COMMENT ON COLUMN ingest.announced_again.arrived_at IS 'when S3 stored the object';
COMMENT ON COLUMN ingest.announced_again.announced_at IS 'the last time';

-- The sweeper logs in as the loader: it needs to read the ledger, and this.
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.announced_again TO iot_loader;
