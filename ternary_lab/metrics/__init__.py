"""Measures of a generator and of its code. They are exact over the 19,683 outputs; only latents are sampled.

`coverage` counts drawn operations, `information` computes the whole output distribution, `latent_entropy` looks at
the latents, `likelihood` at how well operations are coded. `evaluate` measures a finished model with all of them,
`per_epoch` measures beside training. `quantities` names what is measured.
May import: `backend`, `space`, `config` and `model`.
"""
