"""Functions that a study names, ``module:function``: where they may lie, what they must be. No torch.

A name means a function of a Python file below the study's own folder, or one that an installed package
offers by an entry point; nothing else. See ``docs/trust.md``.
"""
