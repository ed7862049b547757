"""Data-parallel training of any Caffe solver over MPI.

    mpirun -n 4 python3 -m caffe_losses.data_parallel --solver solver.prototxt

Each rank runs the net on its own part of the batch; between backward and update the gradients of
all ranks are averaged, so that all ranks keep the same weights. R ranks with batch b train as one
rank with batch R * b. For training scripts of one's own see `mpi.py`.
"""
