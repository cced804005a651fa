"""The dashboards, one file each."""

from dashboards.board import Board
from dashboards.boards import capacity, device, operations, overview, pipeline, quality

BOARDS: tuple[Board, ...] = (
    overview.BOARD,
    device.BOARD,
    quality.BOARD,
    pipeline.BOARD,
    operations.BOARD,
    capacity.BOARD,
)
"""In the order in which one looks."""
