"""`fleet audit`: where every reading is, by what a fleet wrote down that it had sent, or by its sequence numbers."""
