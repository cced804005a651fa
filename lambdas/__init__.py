"""What runs in Lambda: one folder per function, and what they share. No CDK imports here."""
