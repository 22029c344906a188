"""Statements as lines, with the comments that they had."""

import ast
import inspect
import io
import re
import tokenize

WIDTH = 110


def documented(text: str | None, indent: int) -> list[str]:
    """The first paragraph of a docstring."""
    if not text:
        return []
    lines = text.split("\n\n")[0].splitlines()
    pad = " " * indent
    if len(lines) == 1:
        return [f'{pad}"""{lines[0]}"""']
    return [f'{pad}"""{lines[0]}', *(pad + line for line in lines[1:-1]), f'{pad}{lines[-1]}"""']


def lines_of(node: ast.stmt, indent: int) -> list[str]:
    """A statement as it is written, with the comment that it had."""
    pad = " " * indent
    comment = getattr(node, "comment", None)
    tail = f"  {comment}" if comment else ""
    match node:
        case ast.FunctionDef():
            ast.fix_missing_locations(node)
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            decorators = [f"{pad}@{ast.unparse(one)}" for one in node.decorator_list]
            given = re.sub(r"(: [^,=]+?)=", r"\1 = ", ast.unparse(node.args))
            head = f"{pad}def {node.name}({given}){returns}:{tail}"
            inner = [line for one in node.body for line in lines_of(one, indent + 4)]
            blank = [""] if indent > 4 else []  # around a function inside another
            return [*blank, *decorators, *wrapped(head, indent), *inner, *blank]
        case ast.If():
            found = [
                f"{pad}if {ast.unparse(node.test)}:",
                *(line for one in node.body for line in lines_of(one, indent + 4)),
            ]
            if node.orelse:
                found += [f"{pad}else:", *(line for one in node.orelse for line in lines_of(one, indent + 4))]
            return found
        case ast.For():
            head = f"{pad}for {ast.unparse(node.target).strip('()')} in {ast.unparse(node.iter)}:"
            return [head, *(line for one in node.body for line in lines_of(one, indent + 4))]
        case ast.Expr(value=ast.Constant(value=str() as text)):
            return documented(inspect.cleandoc(text), indent)
        case ast.Assign(targets=[ast.Tuple() as left], value=ast.Tuple() as right):
            words = [", ".join(ast.unparse(one) for one in side.elts) for side in (left, right)]
            return wrapped(f"{pad}{' = '.join(words)}{tail}", indent)
        case ast.Assign(targets=[ast.Tuple() as left]):
            return wrapped(
                f"{pad}{', '.join(ast.unparse(one) for one in left.elts)} = {ast.unparse(node.value)}{tail}", indent
            )
        case ast.Return(value=ast.Tuple() as several):
            return wrapped(f"{pad}return {', '.join(ast.unparse(one) for one in several.elts)}{tail}", indent)
        case _:
            return wrapped("\n".join(pad + line for line in ast.unparse(node).splitlines()) + tail, indent)


def wrapped(line: str, indent: int) -> list[str]:
    """The line, or where it is too long its outermost bracket opened."""
    code, mark, comment = line.partition("  # ")
    if len(line) <= WIDTH or "(" not in code:
        return line.splitlines()
    if mark and not code.lstrip().startswith("def "):
        return [" " * indent + "# " + comment, *wrapped(code, indent)]
    depth, opened, closed = 0, -1, -1
    for at, letter in enumerate(code):
        if letter in "([{":
            if depth == 0:
                opened = at
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth == 0:
                closed = at
    if closed < opened:
        return [line]
    pad = " " * (indent + 4)
    inner = pad + code[opened + 1 : closed]
    head = code[: opened + 1] + (mark + comment if mark else "")
    return [head, inner, " " * indent + code[closed:]]


def quoted(text: str) -> str:
    """With double quotes, and a generator as the one argument of a call without brackets of its own."""
    found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    lines = text.splitlines(keepends=True)
    for token in reversed(found):
        if token.type == tokenize.STRING and (word := token.string).lstrip("f").startswith("'") and '"' not in word:
            (row, start), (_, end) = token.start, token.end
            mark = word[: word.index("'")]
            lines[row - 1] = lines[row - 1][:start] + f'{mark}"{word[len(mark) + 1 : -1]}"' + lines[row - 1][end:]
    return re.sub(r"\(\(([^()]*\([^()]*\) for [^()]* in [^()]*\([^()]*\))\)\)", r"(\1)", "".join(lines))
