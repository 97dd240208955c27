"""Images in, what their pixels say out; and images written anew where they cannot be read as they are."""
