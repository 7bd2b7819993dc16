"""`make torture`: real runs are killed at random, and what is left of them is compared with a calm run."""
