"""Linux and the standard library as every process of the daemon uses them: no other import, nothing decided."""
