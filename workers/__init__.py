"""The intervenable model: where it can be changed, and what comes out. Torch is loaded where it is used."""
