"""Measures of a generator and of its latent code.

`coverage` counts drawn operations. `from_draws` estimates the measures of an unknown generator from its draws.
`information` computes the whole output distribution: it is exact over the 19,683 operations, and only latents are
sampled. `latent_entropy` measures the distribution of the latents. `likelihood` measures how well operations are coded.
`entry_effects` describes the codes by one vector for each entry of the table.
`evaluate` computes all metrics of a finished model. `per_epoch` measures the weights of an epoch while the next epoch
trains. `quantities` has the names and units of the measures.
May import: `backend`, `space`, `config` and `model`.
"""
