"""Expressions of the job file: CEL, checked when the job is, computed over columns.

Compiled(check("amount > 10.0 && country == 'IS'", fields, ["bool"])).evaluate(columns, n) -> Column

tree       what CEL's parser and checker give         language   checking, and errors with their place
inference  types of fields that no schema declares    compiled   from a tree to steps over columns
columns    values, nulls and failures of n records    operators, texts, distinct   the steps
"""

from streamsample.expressions.columns import WORDS, Column, Failure
from streamsample.expressions.language import Checked, ExpressionError, FieldError, Fields, check
from streamsample.expressions.tree import Type

__all__ = ["WORDS", "Checked", "Column", "ExpressionError", "Failure", "FieldError", "Fields", "Type", "check"]
