"""What drives a run: the scheduler, its timing wheel, the pace of connects, worker processes."""
