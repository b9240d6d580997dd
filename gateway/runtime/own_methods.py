"""Copies of inherited methods, for the inline caches of CPython."""

from __future__ import annotations

from types import FunctionType


def own_methods(cls: type) -> None:
    """Give ``cls`` copies of the methods and read-only properties that it inherits.

    CPython keeps what it has learnt about attributes in the code of a function, for one class at a time; a method that
    serves two classes in turn looks its attributes up again and again. Compiled methods stay as they are.
    """
    for base in cls.__mro__[1:]:
        for name, inherited in vars(base).items():
            if name in vars(cls):
                continue
            if isinstance(inherited, FunctionType):
                setattr(cls, name, _copy(inherited))
            elif isinstance(inherited, property) and isinstance(inherited.fget, FunctionType):
                assert inherited.fset is None
                setattr(cls, name, property(_copy(inherited.fget), doc=inherited.__doc__))


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__doc__ = function.__doc__
    return copy
