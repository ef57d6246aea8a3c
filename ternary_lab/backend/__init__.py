"""CPUs, devices, threads, floating-point arithmetic, CUDA kernels and random streams.

For: the same results at full speed on every processor and GPU. The models can be read without it.
May import: `errors` only.
"""
