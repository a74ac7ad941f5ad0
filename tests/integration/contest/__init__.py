"""Three contenders for one lock, and what befalls them at random."""
