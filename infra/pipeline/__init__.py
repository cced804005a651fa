"""The parts of the Ingest stack that are made of several resources, each a function that adds them to the stack."""
