-- What an operator did with what was refused, and messages kept whole so that they can be sent again.

ALTER TABLE ingest.quarantine
    ADD COLUMN payload     bytea,
    ADD COLUMN received_at timestamptz,
    ADD COLUMN resolution  text,
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolved_by text,
    ADD COLUMN note        text,
    ADD CONSTRAINT quarantine_payload_of_message CHECK (payload IS NULL OR message_id IS NOT NULL),
    ADD CONSTRAINT quarantine_resolution CHECK (resolution IN ('redriven', 'discarded')),
    ADD CONSTRAINT quarantine_resolved CHECK (num_nulls(resolution, resolved_at, resolved_by) IN (0, 3));
COMMENT ON TABLE ingest.quarantine IS
    'What could not become a row, and why. Nothing is ever deleted here: those of an object that are not redriven are as many as ingest.objects.quarantined';
COMMENT ON COLUMN ingest.quarantine.payload IS
    'every byte of a message that never reached S3; NULL for lines of an object, whose original is in S3';
COMMENT ON COLUMN ingest.quarantine.received_at IS 'when AWS IoT handed a message that never reached S3 to its error action';
COMMENT ON COLUMN ingest.quarantine.resolution IS
    'redriven: its readings are accounted for elsewhere; discarded: an operator gave it up (it still counts as quarantined); NULL: it waits';
CREATE INDEX quarantine_waiting_idx ON ingest.quarantine (quarantined_at) WHERE resolution IS NULL;

ALTER TABLE ingest.objects
    ADD COLUMN resolution  text,
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolved_by text,
    ADD COLUMN note        text,
    ADD CONSTRAINT objects_resolution CHECK (resolution IS NULL OR (resolution = 'discarded' AND status = 'rejected')),
    ADD CONSTRAINT objects_resolved CHECK (num_nulls(resolution, resolved_at, resolved_by) IN (0, 3));
COMMENT ON COLUMN ingest.objects.resolution IS 'discarded: an operator gave up this rejected object; one that is redriven is loaded';
CREATE INDEX objects_rejected_idx ON ingest.objects (claimed_at) WHERE status = 'rejected';

CREATE VIEW ingest.refusals AS
SELECT 'line' AS kind, q.quarantine_id AS id, q.quarantined_at AS at, q.reason, q.device_id,
       q.object_id, o.bucket, o.key, o.version_id, q.message_id, q.line, q.element, q.raw_bytes AS size_bytes,
       q.resolution, q.resolved_at, q.resolved_by, q.note
FROM ingest.quarantine q JOIN ingest.objects o ON o.object_id = q.object_id
UNION ALL
SELECT 'message', quarantine_id, quarantined_at, reason, device_id,
       NULL, NULL, NULL, NULL, message_id, NULL, NULL, raw_bytes,
       resolution, resolved_at, resolved_by, note
FROM ingest.quarantine WHERE message_id IS NOT NULL
UNION ALL
SELECT 'object', object_id, claimed_at, reason, NULL,
       object_id, bucket, key, version_id, NULL, NULL, NULL, size_bytes,
       resolution, resolved_at, resolved_by, note
FROM ingest.objects WHERE status = 'rejected';
COMMENT ON VIEW ingest.refusals IS
    'Everything refused that the database knows of, and what became of it; what waits for an operator has no resolution';
