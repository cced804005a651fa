"""From S3 to rows again: `fleet replay` loads objects of a span of time, `fleet rebuild` fills an empty database."""
