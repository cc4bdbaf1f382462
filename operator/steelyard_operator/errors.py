"""Errors of the operator package.

OperatorError
└── UserError      the user's input is wrong: printed as one sentence, exit code 2
"""


class OperatorError(Exception):
    """Anything that the operator package raises on purpose."""


class UserError(OperatorError):
    """The input is wrong; the message names what, where and what is allowed."""
