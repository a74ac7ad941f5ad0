"""A hostile neighbour: one program misbehaves in every way that it can, and five others must not notice."""
