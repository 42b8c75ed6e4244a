"""Runs a completion's code in one process and its tests in another.

The parent, the judge, runs the tests, and its exit status is the verdict. Its child runs the code. The child
is forked before the judge reads the tests, and the file of the tests is gone before the code runs. A name of
the code is a `Remote` in the tests: a call sends the arguments to the child, and gets the result. Numbers,
texts and containers are sent as data, so the tests compare data that the child computed without knowing what
it is compared with. Other objects stay in their process. What arrives is data for `Wire.unpack` and never
code, so nothing that the child sends can change the judge.
"""

import ast
import builtins
import importlib
import json
import linecache
import os
import struct
import sys
import traceback

OWN = __file__
# The special methods that a remote object has if its class has them.
SPECIAL = frozenset(
    f"__{name}__"
    for name in """
    call getitem setitem delitem len iter next reversed contains bool enter exit int float index complex
    round trunc floor ceil neg pos abs invert add radd iadd sub rsub isub mul rmul imul matmul rmatmul
    truediv rtruediv itruediv floordiv rfloordiv ifloordiv mod rmod imod divmod rdivmod pow rpow ipow
    and rand iand or ror ior xor rxor ixor lshift rlshift rshift rrshift lt le gt ge
    """.split()
)
CONTAINERS = {"l": list, "t": tuple, "d": dict, "s": set, "f": frozenset, "b": bytes, "y": bytearray}
# Classes whose instances are sent as the arguments that make them.
VALUES = {
    ("builtins", "complex"), ("builtins", "range"), ("builtins", "slice"), ("fractions", "Fraction"),
    ("decimal", "Decimal"), ("datetime", "date"), ("datetime", "time"), ("datetime", "datetime"),
    ("datetime", "timedelta"), ("datetime", "timezone"), ("collections", "Counter"), ("collections", "deque"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"),
}
# Classes of data.
BASES = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
# Classes that are sent as their name.
CLASSES = {
    name: value
    for name, value in vars(builtins).items()
    if value in (*BASES, object, range) or (isinstance(value, type) and issubclass(value, Exception))
}
VIEWS = {type({}.keys()): "K", type({}.items()): "I"}


class Remote:
    """An object of the other process."""

    def __init__(self, wire, number, based):
        object.__setattr__(self, "_wire_", (wire, number, based))

    def __getattr__(self, name):
        return own(self).ask("get", self, name)

    def __setattr__(self, name, value):
        own(self).ask("set", self, name, value)

    def __delattr__(self, name):
        own(self).ask("delete", self, name)

    def __eq__(self, other):
        """Only an object of the code's own is compared by the code; data is compared here."""
        if isinstance(other, Remote):
            return self is other or bool(own(self).ask("equal", self, other))
        return own(self).ask("base", self) == other if has_base(self) else NotImplemented

    def __hash__(self):
        return own(self).ask("hash", self)

    def __repr__(self):
        return str(own(self).ask("repr", self))

    def __str__(self):
        return str(own(self).ask("str", self))

    def __format__(self, form):
        return str(own(self).ask("format", self, form))

    def __dir__(self):
        return own(self).ask("dir", self)

    def __instancecheck__(self, instance):
        return bool(own(self).ask("isinstance", instance, self))

    def __subclasscheck__(self, kind):
        return bool(own(self).ask("issubclass", kind, self))

    __doc__ = property(lambda self: own(self).ask("get", self, "__doc__"))


def own(remote):
    return object.__getattribute__(remote, "_wire_")[0]


def has_base(remote):
    """Whether its class is a subclass of a number's, a text's or a container's."""
    return object.__getattribute__(remote, "_wire_")[2]


def forward(name):
    ordered = name in ("__lt__", "__le__", "__gt__", "__ge__")

    def method(self, *args, **named):
        if ordered and has_base(self) and not isinstance(args[0], Remote):
            return getattr(own(self).ask("base", self), name)(args[0])
        return own(self).ask("special", self, name, args, named)

    return method


class Gone(BaseException):
    """The other process has ended."""


class Wire:
    """Requests to the other process, and answers to its requests. `judge`: this process runs the tests."""

    def __init__(self, judge, incoming, outgoing, names):
        self.judge, self.names = judge, names
        self.incoming, self.outgoing = os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")
        # Objects that the other process refers to; remote objects and their classes; global variables.
        self.exported, self.numbers = [], {}
        self.remotes, self.kinds, self.errors = {}, {}, {}
        self.watched = {}
        self.own_streams = self.streams = (sys.stdin, sys.stdout)

    def send(self, message):
        data = json.dumps(message).encode()
        self.outgoing.write(struct.pack("<Q", len(data)) + data)
        self.outgoing.flush()

    def receive(self):
        head = self.incoming.read(8)
        if len(head) < 8:
            raise Gone
        length, = struct.unpack("<Q", head)
        data = self.incoming.read(length)
        if len(data) < length:
            raise Gone
        return json.loads(data)

    def ask(self, what, *args):
        if self.judge:
            self.redirect()
        seen = {}
        try:
            self.send(["ask", what, self.pack(args, seen)])
            while True:
                kind, *message = self.receive()
                if kind == "ask":
                    self.answer(*message)
                    continue
                arrived = [value for _, value in seen.values()]
                for place, content in message[1]:
                    refill(arrived[place], [self.unpack(item, arrived) for item in content])
                self.follow(message[2])
                if kind == "done":
                    return self.unpack(message[0], arrived)
                error, frames, args, fields = message[0]
                error = self.unpack(error, arrived)
                break
            made = self.error(error, self.unpack(args, arrived), self.unpack(fields, arrived), str(frames))
        except (Gone, OSError):
            raise self.ended() from None
        raise made from None

    def redirect(self):
        """Gives the code the standard input and output that the tests have replaced."""
        streams = (sys.stdin, sys.stdout)
        if any(now is not before for now, before in zip(streams, self.streams)):
            self.streams = streams
            replaced = [None if now is own else now for now, own in zip(streams, self.own_streams)]
            self.ask("streams", *replaced)

    def follow(self, changed):
        """Takes over changes of global variables of the code, unless the tests have changed them as well."""
        for name, value in changed:
            if name in self.watched and self.names.get(name) is self.watched[name]:
                self.names[name] = self.watched[name] = self.unpack(value, [])

    def ended(self):
        """Nothing that the tests could catch."""
        sys.stderr.flush()
        os._exit(1)

    def error(self, kind, args, fields, frames):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = Exception
        try:
            made = kind(*args)
        except Exception:
            made = Exception(*args)
        made.__dict__.update({name: value for name, value in fields.items() if not name.startswith("_")})
        made.frames_elsewhere = frames
        return made

    def answer(self, what, args):
        """Sends the result of a request or its exception, and the changed containers of the arguments."""
        arrived = []
        args = self.unpack(args, arrived)
        before = [content(value) for value in arrived]
        seen = {id(value): (place, value) for place, value in enumerate(arrived)}
        try:
            kind, result = "done", self.pack(self.perform(what, *args), seen)
        except Gone:
            raise
        except Exception as error:
            fields = {k: v for k, v in vars(error).items() if k != "frames_elsewhere"}
            packed = (type(error), "".join(frames_of(error)), error.args, fields)
            try:
                kind, frames, args, fields = packed
                result = [self.pack(kind, seen), frames, self.pack(args, seen), self.pack(fields, seen)]
            except Exception:
                result = [["T", "Exception"], packed[1], ["t", str(error)], ["d"]]
            kind = "failed"
        changed = [
            (place, value)
            for place, value in enumerate(arrived)
            if len(before[place]) != len(content(value))
            or any(one is not other for one, other in zip(before[place], content(value)))
        ]
        changed = [[place, [self.pack(item, seen) for item in content(value)]] for place, value in changed]
        self.send([kind, result, changed, [] if self.judge else self.changed_globals(seen)])

    def changed_globals(self, seen):
        """Data in global variables of the code that differs from what the tests have."""
        changed = []
        for name, known in self.watched.items():
            packed = self.pack(self.names.get(name), dict(seen))
            if packed != known and not isinstance(packed, list):
                self.watched[name] = packed
                changed.append([name, packed])
        return changed

    def perform(self, what, *args):
        if what == "globals" and not self.judge:
            found = {name: self.names[name] for name in args[0] if name in self.names}
            self.watched = {name: self.pack(value, {}) for name, value in found.items()}
            return found
        if what == "streams" and not self.judge:
            replaced = [own if new is None else new for new, own in zip(args, self.own_streams)]
            sys.stdin, sys.stdout = replaced
            return None
        of, rest = args[0], args[1:]
        if what in ("get", "set", "delete") and self.judge:
            self.guard(what, of, rest[0])
        if what == "get":
            return getattr(of, rest[0])
        if what == "set":
            return setattr(of, *rest)
        if what == "delete":
            return delattr(of, rest[0])
        if what == "special" and rest[0] in SPECIAL:
            if rest[0] == "__call__":
                return of(*rest[1], **rest[2])
            if rest[0] == "__iter__":
                return iter(of)
            if rest[0] == "__bool__":
                return bool(of)
            return getattr(type(of), rest[0])(of, *rest[1], **rest[2])
        if what == "equal":
            return bool(of == rest[0])
        if what == "base":
            return plain(next(base for base in BASES if isinstance(of, base)), of)
        return {
            "hash": hash, "repr": repr, "str": str, "format": format, "dir": dir, "isinstance": isinstance,
            "issubclass": issubclass,
        }[what](of, *rest)

    def guard(self, what, of, name):
        """The code reaches only public data and methods of objects that the tests gave it."""
        inner = ("_", "f_", "gi_", "tb_", "co_", "cr_", "ag_")
        if not isinstance(name, str) or name.startswith(inner):
            raise AttributeError(name)
        if what != "get" and (isinstance(of, type) or callable(of) or callable(getattr(of, name, None))):
            raise AttributeError(f"{name} can't be changed")

    def pack(self, value, seen):
        """JSON of a value. `seen` numbers the containers that can change, by their identity."""
        kind = type(value)
        if kind in (type(None), bool, str, float):
            return value
        if kind is int:
            return value if -(1 << 53) < value < 1 << 53 else ["i", hex(value)]
        if id(value) in seen:
            return ["a", seen[id(value)][0]]
        if kind in (list, dict, set, bytearray):
            seen[id(value)] = (len(seen), value)
        if kind in (list, tuple, set, frozenset):
            mark = {list: "l", tuple: "t", set: "s", frozenset: "f"}[kind]
            return [mark, *[self.pack(item, seen) for item in value]]
        if kind is dict:
            return ["d", *[self.pack(item, seen) for item in content(value)]]
        if kind in (bytes, bytearray):
            return ["b" if kind is bytes else "y", value.decode("latin-1")]
        if value is Ellipsis or value is NotImplemented:
            return ["E" if value is Ellipsis else "N"]
        name = (kind.__module__, kind.__qualname__)
        if name in VALUES and getattr(sys.modules.get(name[0]), name[1], None) is kind:
            return ["v", *name, self.pack(parts(value), seen)]
        if name[0] == "numpy" and hasattr(value, "tobytes") and not value.dtype.hasobject:
            numbers = value.tobytes().decode("latin-1")
            return ["n", kind.__name__ == "ndarray", value.dtype.str, list(value.shape), numbers]
        if isinstance(value, Remote):
            return ["m", object.__getattribute__(value, "_wire_")[1]]
        if kind is type(sys):
            if self.judge:
                raise TypeError("a module can't be given to the code that is tested")
            return ["M", value.__name__]
        if kind in VIEWS:
            return [VIEWS[kind], self.pack(dict(value if VIEWS[kind] == "I" else dict.fromkeys(value)), {})]
        if isinstance(value, type):
            if CLASSES.get(value.__name__) is value:
                return ["T", value.__name__]
            if value in self.errors:
                return ["m", self.errors[value]]
            if issubclass(value, Exception):
                base = next(base for base in value.__mro__[1:] if issubclass(base, Exception))
                return ["e", self.number(value), value.__name__, self.pack(base, seen)]
        special = sorted(name for name in SPECIAL if getattr(kind, name, None) is not None)
        return ["o", self.number(value), special, isinstance(value, BASES)]

    def number(self, value):
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.exported)
            self.exported.append(value)
        return number

    def unpack(self, data, arrived):
        if not isinstance(data, list):
            return data
        mark, *rest = data
        if mark == "i":
            return int(rest[0], 16)
        if mark == "a":
            return arrived[rest[0]]
        if mark in ("b", "y"):
            value = CONTAINERS[mark](rest[0].encode("latin-1"))
            if mark == "y":
                arrived.append(value)
            return value
        if mark in ("l", "d", "s"):
            value = CONTAINERS[mark]()
            arrived.append(value)
            refill(value, [self.unpack(item, arrived) for item in rest])
            return value
        if mark in ("t", "f"):
            return CONTAINERS[mark]([self.unpack(item, arrived) for item in rest])
        if mark in ("E", "N"):
            return Ellipsis if mark == "E" else NotImplemented
        if mark == "v":
            return value_of(tuple(rest[:2]), self.unpack(rest[2], arrived))
        if mark == "n":
            import numpy

            # Fails for objects: they are no data.
            array = numpy.ndarray(rest[2], numpy.dtype(rest[1]), rest[3].encode("latin-1")).copy()
            return array if rest[0] else array[()]
        if mark == "m":
            return self.exported[rest[0]]
        if mark in VIEWS.values():
            value = self.unpack(rest[0], [])
            return value.keys() if mark == "K" else value.items()
        if mark == "M":
            return imported(rest[0])
        if mark == "T":
            return CLASSES[rest[0]]
        number = rest[0]
        if number in self.remotes:
            return self.remotes[number]
        if mark == "e":
            base = self.unpack(rest[2], arrived)
            value = type(str(rest[1]), (base,), {"__module__": "__main__"})
            self.errors[value] = number
        else:
            special = tuple(name for name in rest[1] if name in SPECIAL)
            if special not in self.kinds:
                methods = {name: forward(name) for name in special}
                methods["__doc__"] = vars(Remote)["__doc__"]
                self.kinds[special] = type("Remote", (Remote,), methods)
            value = self.kinds[special](self, number, bool(rest[2]))
        self.remotes[number] = value
        return value


def imported(name):
    """This process's own module: what `math.isclose` says in the tests is not up to the code."""
    try:
        if any(part.startswith("_") for part in name.split(".")):
            raise ImportError(name)
        return importlib.import_module(name)
    except BaseException as error:
        # `import unittest.__main__` would end the judge, and well.
        raise ImportError(f"the tests can't use the module {name}: {error}") from None


def content(value):
    """What a container holds, as a list."""
    return [part for item in value.items() for part in item] if isinstance(value, dict) else list(value)


def refill(value, items):
    if isinstance(value, (list, bytearray)):
        value[:] = items
    elif isinstance(value, set):
        value.clear()
        value.update(items)
    else:
        value.clear()
        value.update(zip(items[::2], items[1::2]))


def plain(base, value):
    """The value of an instance of a subclass, whatever the subclass overrides."""
    if base is dict:
        return dict(dict.items(value))
    if base in (tuple, list, set, frozenset):
        return base(base.__iter__(value))
    if base is bool:
        return value is True
    if base is str:
        return str.__str__(value)[:]
    if base in (bytes, bytearray):
        return base(base.__getitem__(value, slice(None)))
    if base is int:
        return int.__index__(value)
    return base.__add__(value, base(0))


def parts(value):
    """The arguments that make a value of `VALUES`."""
    kind = type(value).__name__
    if kind in ("Counter", "OrderedDict"):
        return [dict(value)]
    if kind == "defaultdict":
        return [value.default_factory, dict(value)]
    if kind == "deque":
        return [list(value), value.maxlen]
    if kind == "complex":
        return [value.real, value.imag]
    if kind in ("range", "slice"):
        return [value.start, value.stop, value.step]
    if kind == "timezone":
        return list(value.__getinitargs__())
    if kind == "Fraction":
        return [value.numerator, value.denominator]
    return list(value.__reduce__()[1])


def value_of(name, args):
    if name not in VALUES:
        raise ValueError(name)
    return getattr(importlib.import_module(name[0]), name[1])(*args)


def frames_of(error):
    """The lines of the frames of an exception that are not this file's, then those of the other process."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != OWN]
    return [*traceback.format_list(frames), getattr(error, "frames_elsewhere", "")]


def show(error):
    lines = frames_of(error)
    head = ["Traceback (most recent call last):\n"] if "".join(lines) else []
    sys.stderr.write("".join([*head, *lines, *traceback.format_exception_only(type(error), error)]))
    sys.stderr.flush()


def source_of(file):
    with open(os.path.join("..", file), encoding="utf-8", newline="") as text:
        source = text.read()
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    return source


def solve(names, incoming, outgoing):
    """The child: runs the code, then answers the judge."""
    wire = Wire(False, incoming, outgoing, names)
    try:
        try:
            # The file of the tests is gone.
            wire.receive()
            exec(compile(source_of("solution.py"), "solution.py", "exec", dont_inherit=True), names)
            wire.send(["ready"])
            while True:
                wire.answer(*wire.receive()[1:])
        except Gone:
            pass
        except BaseException as error:
            if not isinstance(error, SystemExit):
                show(error)
    finally:
        os._exit(1)


def judge(names, incoming, outgoing):
    source = source_of("tests.py")
    os.remove(os.path.join("..", "tests.py"))
    # The code can write to the current folder; nothing is imported from there.
    sys.path[:] = [path for path in sys.path if path]
    wire = Wire(True, incoming, outgoing, names)
    try:
        wire.send(["go"])
        if wire.receive() != ["ready"]:
            raise Gone
    except (Gone, OSError):
        wire.ended()
    try:
        tree = compile(source, "tests.py", "exec", ast.PyCF_ONLY_AST, True)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found = wire.ask("globals", sorted(name for name in used if not name.startswith("__")))
        # A task may ask for a function that has the name of one of Python's. Elsewhere, tests mean Python's.
        if not all(hasattr(builtins, name) for name in found):
            found = {name: value for name, value in found.items() if not hasattr(builtins, name)}
        names.update(found)
        wire.watched = found
        exec(compile(tree, "tests.py", "exec", dont_inherit=True), names)
    except BaseException as error:
        # `unittest.main()` ends so.
        if not isinstance(error, SystemExit) or error.code:
            show(error)
            os._exit(1)
    sys.stderr.flush()
    os._exit(0)


def main(names):
    sys.stdin = open(os.devnull)
    to_child, to_judge = os.pipe(), os.pipe()
    if os.fork():
        os.close(to_child[0])
        os.close(to_judge[1])
        judge(names, to_judge[0], to_child[1])
    os.close(to_child[1])
    os.close(to_judge[0])
    solve(names, to_child[0], to_judge[1])
