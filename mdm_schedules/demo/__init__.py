"""The demonstration: two small models that ship with the package, and what shows a schedule."""
