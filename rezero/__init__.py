"""ReZero: teach a small language model to search, and to search again when a search failed."""
