"""Search for a rectangle of filler in a picture, such as a part that the model left grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    Planes = NDArray[np.int16]
    Marks = NDArray[np.bool_]
    # Top, bottom, left, right; bottom and right are outside.
    Rectangle = tuple[int, int, int, int]

_BLOCK = 4
# Distances from an edge in pixels: reduction and codec blur the edge, and blocks are coarse.
_INSIDE, _OUTSIDE = 1, 5


def has_filler(marked: Marks, planes: Planes, *, share: float, edge: int) -> bool:
    """Return True if marked pixels fill a large rectangle with sharp edges, but not the whole picture.

    Equal bars on two sides belong to the format of a film, so they do not count.

    :param marked: pixels of the colour of the filler, height x width
    :param planes: picture, 3 x height x width
    :param share: lowest area of the rectangle, of the picture
    :param edge: lowest difference of colour between inside and outside
    """
    if marked.mean() < share:
        return False
    height, width = (side // _BLOCK * _BLOCK for side in marked.shape)
    blocks = marked[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    # Noise of a codec changes single pixels of a filler.
    cells: Marks = blocks.mean(axis=(1, 3)) > 0.8
    top, bottom, left, right = largest_rectangle(cells.tolist())
    if (bottom - top) * (right - left) < share * cells.size:
        return False
    borders = (top == 0) + (bottom == cells.shape[0]) + (left == 0) + (right == cells.shape[1])
    if borders == 3 and cells[::-1, ::-1][top:bottom, left:right].mean() > 0.9:
        return False
    found = (top * _BLOCK, bottom * _BLOCK, left * _BLOCK, right * _BLOCK)
    edges = [change > edge for change in _changes(planes, found)]
    # Parts of the picture beside the rectangle resemble the filler.
    return bool(edges) and sum(int(side.sum()) for side in edges) >= 0.6 * sum(side.size for side in edges)


def largest_rectangle(cells: list[list[bool]]) -> Rectangle:
    """Return the largest rectangle of cells that are all True; an empty one without such a cell."""
    best, best_area = (0, 0, 0, 0), 0
    heights = [0] * len(cells[0]) if cells else []
    for row, line in enumerate(cells):
        heights = [height + 1 if cell else 0 for height, cell in zip(heights, line, strict=True)]
        # Columns with increasing heights: start and height.
        rising: list[tuple[int, int]] = []
        for column, height in enumerate([*heights, 0]):
            start = column
            while rising and rising[-1][1] >= height:
                start, tall = rising.pop()
                if (area := tall * (column - start)) > best_area:
                    best, best_area = (row + 1 - tall, row + 1, start, column), area
            rising.append((start, height))
    return best


def _changes(planes: Planes, found: Rectangle) -> Iterator[NDArray[np.int16]]:
    """Yield the change of colour along each side that is not at the border of the picture."""
    top, bottom, left, right = found
    rows, columns = planes[:, :, left:right], planes[:, top:bottom].transpose(0, 2, 1)
    for lines, at, step in (
        (rows, top, -1),
        (rows, bottom - 1, 1),
        (columns, left, -1),
        (columns, right - 1, 1),
    ):
        inner, outer = at - step * _INSIDE, at + step * _OUTSIDE
        if 0 <= outer < lines.shape[1] and 0 <= inner < lines.shape[1]:
            yield abs(lines[:, inner] - lines[:, outer]).max(axis=0)
