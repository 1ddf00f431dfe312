"""Wing: execute the notebooks without hands, once (run) or many times (sweep). It knows nothing of what they train."""
