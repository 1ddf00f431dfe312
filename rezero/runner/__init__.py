"""Wing: execute the notebooks headlessly (run), call a function many times (sweep). It knows nothing of training."""
