"""The run folder, the only protocol between the app and its workers."""
