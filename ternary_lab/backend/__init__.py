"""The machine below the mathematics: devices, threads, arithmetic, CUDA kernels and random streams.

For: the same numbers at full speed on every processor and GPU. A reader of the models can take it as given.
May import: `errors` only.
"""
