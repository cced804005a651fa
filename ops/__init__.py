"""The operator's commands, and the `fleet` command line that gathers them."""
