"""Models on this machine: fetched, checked, loaded, and the hook points in their modules."""
