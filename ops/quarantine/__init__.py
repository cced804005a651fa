"""`fleet quarantine`: whatever the pipeline refused or gave up on, in one list, to be redriven or discarded."""
