"""Images and what lies beside them in, where they lie on the ground out."""
