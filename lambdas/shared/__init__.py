"""What more than one function needs: the database, the telemetry contract, quarantine."""
