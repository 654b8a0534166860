"""The interpreter: the few opcodes that plain data needs, one small function for each group.

Python's own unpickler is not used. An opcode can push plain values, put them into containers, look up a name
from a short list (``safa.unpickle.symbols``) and let it make what it stands for. Everything a file can ask
for is paid for by bytes of the file (``safa.unpickle.work``), and nothing here calls itself deeper than once.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from safa.unpickle.arrays import ArrayDraft, DtypeDraft, InertRecord, finish_array, finish_dtype
from safa.unpickle.stream import Stream
from safa.unpickle.symbols import (
    ENTRY_WEIGHT,
    MEMBER_WEIGHT,
    RECORD_WEIGHT,
    Symbol,
    called,
    described,
    find_symbol,
    new_record,
)
from safa.unpickle.tensors import FindStorage, named_storage
from safa.unpickle.work import Damaged, Forbidden, Work, check_key

MOST_MARKS = 1000  # containers open at once
CONTAINER_WEIGHT = 64
SET_WEIGHT = 216
_NOTHING = object()  # a place of the memo that nothing was put in


class Machine(Stream):
    """Reads one pickle out of bytes.

    Args:
        data: the bytes.
        work: counts what it costs.
        start: where the pickle begins.
        find: gives the storages that lie outside of a pickle of torch's; None for other pickles, which name
            nothing outside of them. Only these hold a file of torch's as bytes.
    """

    def __init__(self, data: bytes, work: Work, start: int = 0, find: FindStorage | None = None) -> None:
        super().__init__(data, start)
        self.work = work
        self._find = find
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies under each mark
        self._memo: list[Any] = []

    def run(self) -> Any:
        """The value; ``at`` is behind the pickle then.

        Raises:
            Damaged: the bytes are no pickle, or one that was cut or changed.
            Forbidden: it asks for what plain data does not need, or for too much.
        """
        data, end = self.data, len(self.data)
        while self.work.steps_left:
            self.work.steps_left -= 1
            if self.at >= end:
                raise Damaged("it ends too early")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self._pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise _unknown(code)
            action(self)
        raise Forbidden("it has far more steps than plain data of its size needs")

    def load_inner(self, data: bytes, start: int, find: FindStorage) -> tuple[Any, int]:
        """The value of a pickle inside this one, and where it ends; ``find`` gives the storages it names."""
        if self._find:
            raise Forbidden("it holds a tensor inside a tensor")
        self.work.weigh(RECORD_WEIGHT)
        machine = Machine(data, self.work, start, find)
        return machine.run(), machine.at

    # ---- the stack -----------------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise Damaged("it takes what it has not made")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise Damaged("it takes what it has not made")
        return self._stack[-1]

    def _mark(self) -> None:
        if len(self._below) >= MOST_MARKS:
            raise Forbidden(f"it is nested more than {MOST_MARKS} deep")
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        if not self._below:
            raise Damaged("it takes what it has not made")
        items, self._stack = self._stack, self._below.pop()
        return items

    # ---- the memo ------------------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        """Remember the top. Each earlier place took a byte of the file, so none lies behind what was read."""
        value = self._top()
        if index >= self.at:
            raise Damaged("it numbers objects that it cannot hold")
        memo = self._memo
        if index >= len(memo):
            memo.extend(itertools.repeat(_NOTHING, index - len(memo) + 1))
        memo[index] = value

    def _get(self, index: int) -> None:
        value = self._memo[index] if index < len(self._memo) else _NOTHING
        if value is _NOTHING:
            raise Damaged("it takes what it has not made")
        if isinstance(value, DtypeDraft | ArrayDraft) and value.result is not None:
            value = value.result  # remembered before its state was read
        self._push(value)

    def _memoize(self) -> None:
        self._memo.append(self._top())

    # ---- containers ----------------------------------------------------------------------------------------

    def _container(self, made: Any, weight: int = CONTAINER_WEIGHT) -> None:
        self.work.weigh(weight)
        self._push(made)

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise Damaged("it takes what it has not made")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._container(items)

    def _tuple_since_mark(self) -> None:
        items = self._since_mark()
        self._container(tuple(items))

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise Forbidden(f"it adds to {described(target)}, which is not a list")
        target.extend(items)

    def _add(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise Forbidden(f"it adds to {described(target)}, which is not a set")
        target.update(self._members(items))

    def _members(self, items: list[Any]) -> list[Any]:
        self.work.weigh(MEMBER_WEIGHT * len(items))
        for item in items:
            check_key(item)
        return items

    def _frozen_since_mark(self) -> None:
        members = self._members(self._since_mark())
        self._container(frozenset(members), SET_WEIGHT)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) not in (dict, OrderedDict):
            raise Forbidden(f"it puts keys into {described(target)}, which is not a dictionary")
        if len(items) % 2:
            raise Damaged("a key without a value")
        self.work.weigh(ENTRY_WEIGHT * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            target[key] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _dict_since_mark(self) -> None:
        items = self._since_mark()
        self._container({})
        self._set_items(items)

    # ---- names and objects ---------------------------------------------------------------------------------

    def _name_lines(self) -> None:
        module, name = self.line().decode("utf-8"), self.line().decode("utf-8")
        self._push(find_symbol(module, name))

    def _name_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise Damaged("a name that is none")
        self._push(find_symbol(module, name))

    def _call(self) -> None:
        args, symbol = self._pop(), self._pop()
        self._push(called(symbol, args, self))

    def _new(self) -> None:
        args, symbol = self._pop(), self._pop()
        self._push(new_record(symbol, args, self))

    def _build(self) -> None:
        """Set the state of the object on top; what was half made before is whole then."""
        state, target = self._pop(), self._pop()
        if type(target) is DtypeDraft:
            target.result = finish_dtype(target, state)
            target = target.result
        elif type(target) is ArrayDraft:
            target.result = finish_array(state, self.work)
            target = target.result
        elif isinstance(target, InertRecord):
            self._set_attributes(target, state)
        elif type(target) is not OrderedDict:  # a state dict's state is versions, which nothing here needs
            raise Forbidden(f"it changes the state of {described(target)}, which is not plain data")
        self._push(target)

    def _set_attributes(self, record: InertRecord, state: object) -> None:
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise Damaged("an object whose state is no dictionary of names")
        self.work.weigh(ENTRY_WEIGHT * len(state))
        vars(record).update(state)

    def _outside(self) -> None:
        if not self._find:
            raise Forbidden("it asks for something kept outside of it")
        name = named_storage(self._pop(), lambda kind: kind.storage if type(kind) is Symbol else None)
        self._push(self._find(name))


def _unknown(code: int) -> Damaged | Forbidden:
    """Why an opcode is not run."""
    known = next((known for known in pickletools.opcodes if known.code == chr(code)), None)
    if known:
        return Forbidden(f"it uses {known.name}, which plain data does not need")
    return Damaged(f"byte {code:#04x} is no step of a pickle")


Action = Callable[[Machine], None]


def _pushes(read: Callable[[Machine], Any]) -> Action:
    """The action that pushes what it reads."""
    return lambda machine: machine._push(read(machine))


_BY_OPCODE: dict[bytes, Action] = {
    pickle.PROTO: Machine.protocol,
    pickle.FRAME: Machine.frame,
    pickle.NONE: _pushes(lambda machine: None),
    pickle.NEWTRUE: _pushes(lambda machine: True),
    pickle.NEWFALSE: _pushes(lambda machine: False),
    pickle.INT: _pushes(Machine.int_line),
    pickle.LONG: _pushes(Machine.whole_line),
    pickle.LONG1: _pushes(lambda machine: machine.long(1)),
    pickle.LONG4: _pushes(lambda machine: machine.long(4)),
    pickle.BININT: _pushes(lambda machine: machine.signed(4)),
    pickle.BININT1: _pushes(Machine.byte),
    pickle.BININT2: _pushes(lambda machine: machine.number(2)),
    pickle.FLOAT: _pushes(Machine.float_line),
    pickle.BINFLOAT: _pushes(Machine.double),
    pickle.STRING: _pushes(Machine.string_line),
    pickle.SHORT_BINSTRING: _pushes(lambda machine: machine.sized(1).decode("latin1")),
    pickle.BINSTRING: _pushes(lambda machine: machine.sized(4).decode("latin1")),
    pickle.UNICODE: _pushes(Machine.unicode_line),
    pickle.SHORT_BINUNICODE: _pushes(lambda machine: machine.text(1)),
    pickle.BINUNICODE: _pushes(lambda machine: machine.text(4)),
    pickle.BINUNICODE8: _pushes(lambda machine: machine.text(8)),
    pickle.SHORT_BINBYTES: _pushes(lambda machine: machine.sized(1)),
    pickle.BINBYTES: _pushes(lambda machine: machine.sized(4)),
    pickle.BINBYTES8: _pushes(lambda machine: machine.sized(8)),
    pickle.BYTEARRAY8: _pushes(lambda machine: bytearray(machine.sized(8))),
    pickle.MARK: Machine._mark,
    pickle.EMPTY_TUPLE: _pushes(lambda machine: ()),
    pickle.TUPLE: Machine._tuple_since_mark,
    pickle.TUPLE1: lambda machine: machine._tuple(1),
    pickle.TUPLE2: lambda machine: machine._tuple(2),
    pickle.TUPLE3: lambda machine: machine._tuple(3),
    pickle.EMPTY_LIST: lambda machine: machine._container([]),
    pickle.LIST: lambda machine: machine._container(machine._since_mark()),
    pickle.APPEND: lambda machine: machine._append([machine._pop()]),
    pickle.APPENDS: lambda machine: machine._append(machine._since_mark()),
    pickle.EMPTY_DICT: lambda machine: machine._container({}),
    pickle.DICT: Machine._dict_since_mark,
    pickle.SETITEM: Machine._set_item,
    pickle.SETITEMS: lambda machine: machine._set_items(machine._since_mark()),
    pickle.EMPTY_SET: lambda machine: machine._container(set(), SET_WEIGHT),
    pickle.ADDITEMS: lambda machine: machine._add(machine._since_mark()),
    pickle.FROZENSET: lambda machine: machine._frozen_since_mark(),
    pickle.PUT: lambda machine: machine._put(machine.index_line()),
    pickle.BINPUT: lambda machine: machine._put(machine.byte()),
    pickle.LONG_BINPUT: lambda machine: machine._put(machine.number(4)),
    pickle.MEMOIZE: Machine._memoize,
    pickle.GET: lambda machine: machine._get(machine.index_line()),
    pickle.BINGET: lambda machine: machine._get(machine.byte()),
    pickle.LONG_BINGET: lambda machine: machine._get(machine.number(4)),
    pickle.GLOBAL: Machine._name_lines,
    pickle.STACK_GLOBAL: Machine._name_on_stack,
    pickle.REDUCE: Machine._call,
    pickle.NEWOBJ: Machine._new,
    pickle.BUILD: Machine._build,
    pickle.BINPERSID: Machine._outside,
}
_STOP = pickle.STOP[0]
_ACTIONS = {opcode[0]: action for opcode, action in _BY_OPCODE.items()}
