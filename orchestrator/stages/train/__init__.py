"""Training of a study's own models, before anything is run on them."""
