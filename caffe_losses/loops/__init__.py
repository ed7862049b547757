"""The loops that run formulas over blobs, each written once for each of the two engines.

`pointwise` works element by element and `channel_sum` on sums over an axis, `along_axis` on
softmaxes, `overlap` on sums over masks, `by_rank` on sorted errors; `counting` counts labels and
`checksum` shows who has written to a gradient. Numba compiles them where it is installed, NumPy
runs the same formulas elsewhere.
"""
