"""Speech to text: from a WAV file to timed segments. Knows models by their manifest only."""
