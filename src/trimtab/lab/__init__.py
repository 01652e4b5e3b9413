"""Small real corpora and models that the package builds for itself."""
