"""Planning: from a study file to the tables that workers and views read."""
