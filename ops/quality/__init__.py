"""`fleet quality`: how good the data of each device are, by day, and why."""
