-- A device that was taken out of service: its silence is no fault, and hides that of no other.
-- To delete its row would not do: the watch finds it again for as long as it looks at its readings.

ALTER TABLE ingest.devices_seen ADD COLUMN retired_at timestamptz;
COMMENT ON TABLE ingest.devices_seen IS
    'Every device that sent a reading within the retention, so that one that is silent for days is still known';
COMMENT ON COLUMN ingest.devices_seen.retired_at IS
    'when an operator took it out of service; it is not counted unless it was seen after that';
