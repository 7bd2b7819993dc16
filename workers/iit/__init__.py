"""Interchange intervention training: a network learns to do what a causal model does, place by place.

`spec` says what a training is made of, without torch; `data` holds what it sees, `losses` what it is judged
by; `trainer` runs it, from any step on; `measures` are the rows of its curve, `state` what is kept of it.
"""
