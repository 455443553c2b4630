"""Formats: which fields of a value become columns, and how its features are cut out of its bytes.

`projection` is the interface; `avro` and `json` fulfil it.
"""
