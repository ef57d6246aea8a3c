"""CPUs, devices, threads, floating-point arithmetic, CUDA kernels and random streams.

For: the same results at full speed on every processor and GPU. The models can be understood without this package.
May import: `errors` only.
"""
