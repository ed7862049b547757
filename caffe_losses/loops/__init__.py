"""The loops that run formulas over blobs, each written once for each of the two engines.

`pointwise` works element by element and `channel_sum` on sums over an axis; `counting` counts
labels. Numba compiles them where it is installed, NumPy runs the same formulas elsewhere.
"""
