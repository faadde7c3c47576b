"""Problems in a data set, and their remedies."""
