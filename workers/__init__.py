"""The intervenable model: where it can be changed, how, and what comes out. Torch is loaded where it is used."""
