"""The stamp of the tests' own rule, which their lines carry."""

from lambdas.shared.stamp import Stamps

STAMP = "aStampOfTheTests0123456789abcdef"
STAMPS = Stamps(STAMP)
