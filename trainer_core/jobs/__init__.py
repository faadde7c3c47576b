"""The app's side of a job: start, watch, stop, ask."""
