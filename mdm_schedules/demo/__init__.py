"""The demonstration: two small models in the package, and tasks that compare schedules."""
