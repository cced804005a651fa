-- Metrics in single precision: seven significant digits, which is more than any sensor has, and half the bytes of what
-- compression leaves. What no real can hold is NULL, and kept in `extra`.

ALTER TABLE telemetry
    ALTER COLUMN temperature TYPE real,
    ALTER COLUMN humidity TYPE real,
    ALTER COLUMN pressure TYPE real,
    ALTER COLUMN battery TYPE real;
