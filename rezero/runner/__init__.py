"""Wing: execute the notebooks headlessly, once (run) or many times (sweep). It knows nothing of what they train."""
