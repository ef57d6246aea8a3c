"""Measures of a generator and its code. Exact over the 19,683 outputs, Monte Carlo only over latents.

`coverage` counts what is drawn, `information` knows the whole output distribution, `entropy` looks at
the latents, `likelihood` at held-out operations.
"""
