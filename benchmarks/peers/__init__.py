"""Other ways to keep users, as small programs on their published libraries, each in an environment of its own."""
