"""Built-in models ``zoo:mlp``, ``zoo:gru``, ``zoo:gpt``: made from a config and a seed, never from files.

`configs` says what each is made of and what is known of it, without torch; `build` makes the module.
"""
