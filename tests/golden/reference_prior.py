"""What tokcodec/coding/prior.py does with a neural prior, once more: in Python's integers, number
by number, from its docstrings alone."""

TOTAL = 1 << 15


def bounds(tables, around, group=None):
    """Where the slots begin, of every group or of the tokens of one, beside 4 neighbours."""
    vector = [int(x) for token in around for x in tables["vectors"][token]]
    hidden = []
    for unit in range(64):
        total = int(tables["layer_bias"][unit])
        total += sum(x * int(y) for x, y in zip(vector, tables["layer"][:, unit], strict=True))
        hidden.append(min(max(total // 2**7, 0), 127))
    name, rows = "group", range(64)
    if group is not None:
        name, rows = "token", [token for token, own in enumerate(tables["group"]) if own == group]
    scores = [
        int(tables[f"{name}_bias"][row])
        + sum(x * int(y) for x, y in zip(hidden, tables[f"{name}_scores"][row], strict=True))
        for row in rows
    ]
    last = len(tables["powers"]) - 1
    behind = [min((max(scores) - score) // 2**3, last) for score in scores]
    sums = [0]
    for place in behind:
        sums.append(sums[-1] + int(tables["powers"][place]))
    share = TOTAL - len(scores)
    return [part * share // sums[-1] + index for index, part in enumerate(sums)]


def spans(tables, tokens):
    """Where slots begin and end: of the group of every token, in the order of turns, and of it."""
    size = len(tables["group"])
    _, rows, columns = tokens.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    for square in tokens.tolist():
        for row, column in sorted(places, key=lambda place: (2 * place[0] + place[1], place[0])):
            around = [
                square[y][x] if y >= 0 and 0 <= x < columns else size
                for y, x in (
                    (row, column - 1),
                    (row - 1, column - 1),
                    (row - 1, column),
                    (row - 1, column + 1),
                )
            ]
            token = square[row][column]
            group = int(tables["group"][token])
            rank = sum(1 for other in tables["group"][:token] if other == group)
            yield tuple(bounds(tables, around)[group : group + 2])
            yield tuple(bounds(tables, around, group)[rank : rank + 2])


def encode(tables, tokens):
    """int [n, rows, columns] -> the payload."""
    state, words = int(tokens.flat[-1]), []
    for low, end in list(spans(tables, tokens))[-3::-1]:
        if state // (end - low) * TOTAL + low + state % (end - low) >= 1 << 64:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = state // (end - low) * TOTAL + low + state % (end - low)
    words += [state & 0xFFFFFFFF, state >> 32]
    return b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")
