"""Walk the segments or chunks of an image file in the graph."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

MAX_STEPS = 4096
"""Segments, fill bytes or chunks that are walked at most; the client has the same limit."""

Read = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""From a position (int64 scalar) to the number of bytes to the next segment or chunk (int64 scalar, 0 at the
end of the walk), and whether this one is wanted (bool scalar)."""


def walk(start: int, read: Read) -> tuple[tf.Tensor, tf.Tensor]:
    """Walk to the first segment or chunk that is wanted, in at most MAX_STEPS steps.

    Returns:
      Its position, int64 scalar; bool scalar: whether there is one.
    """

    def step(position: tf.Tensor, advance: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return position + advance, *read(position + advance)

    position, _, wanted = tf.while_loop(
        lambda position, advance, wanted: tf.logical_and(advance > 0, tf.logical_not(wanted)),
        step,
        (tf.constant(start, tf.int64), *read(tf.constant(start, tf.int64))),
        maximum_iterations=MAX_STEPS - 1,
    )
    return position, wanted


def integers(
    encoded: tf.Tensor, position: tf.Tensor | int, count: int, dtype: tf.DType, *, little_endian: bool
) -> tf.Tensor:
    """Return `count` integers from this position on, int64 (count,); 0 for those behind the end."""
    length = count * dtype.size
    part = tf.strings.substr(encoded, tf.minimum(tf.cast(position, tf.int64), size(encoded)), length)
    decoded = tf.io.decode_raw(part, dtype, little_endian=little_endian, fixed_length=length)
    return tf.cast(decoded, tf.int64)


def size(encoded: tf.Tensor) -> tf.Tensor:
    """Return the number of bytes, int64 scalar."""
    return tf.cast(tf.strings.length(encoded), tf.int64)


def part(encoded: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Return the bytes from `start` to before `end`, cut off at the last byte, as Python's slices are."""
    start = tf.minimum(start, size(encoded))
    return tf.strings.substr(encoded, start, tf.maximum(end - start, 0))


def unsigned(number: tf.Tensor) -> tf.Tensor:
    """Return an int32 that was read into int64 as the uint32 that the file holds."""
    return tf.bitwise.bitwise_and(number, 0xFFFFFFFF)
