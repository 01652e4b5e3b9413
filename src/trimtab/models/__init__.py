"""Loading models; the only folder that knows architectures."""
