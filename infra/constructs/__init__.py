"""Small constructs that more than one stack, or more than one part of a stack, is made of."""
