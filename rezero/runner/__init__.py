"""Wing: execute the notebooks headlessly (run), and call a function many times (sweep). It knows nothing of training."""
